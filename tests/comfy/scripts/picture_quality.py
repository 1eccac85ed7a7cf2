# ruff: noqa: I001  (ComfyUI must be set up before it is imported)
"""PSNR of a converted demo model's pictures to its source's, in ComfyUI with quantized activations and in our runtime."""

from __future__ import annotations

from bootstrap import REQUEST, answer

from demo_pictures import calibrated, data, in_comfyui, in_our_runtime, part, runtime

from pathlib import Path

import comfy.sd
import torch

converters = part("converters")
sheet = part("demo.sheet")
STORED = {"flux": (data.COMFY_SCALE, data.COMFY_SHIFT), "sd3": (data.SD3_SCALE, data.SD3_SHIFT)}[REQUEST["layout"]]


def drawn(path: Path) -> dict[str, torch.Tensor]:
    patcher = comfy.sd.load_diffusion_model(str(path))
    return {"comfyui": in_comfyui(patcher, STORED), "ours": in_our_runtime(path)}


source = Path(REQUEST["source"])
collected = calibrated(runtime.load_model(source))

found = {}
expected = drawn(source)
for rounding in REQUEST["roundings"]:
    target = Path(REQUEST["work"]) / f"{rounding}.safetensors"
    converters.convert(source, target, converters.Options(rounding=rounding), calibration=collected, device="cpu")
    found[rounding] = {where: sheet.psnr(expected[where], ink) for where, ink in drawn(target).items()}
answer(**found)
