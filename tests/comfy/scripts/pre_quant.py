# ruff: noqa: I001  (ComfyUI must be set up before it is imported)
"""The demo model with a searched pre_quant_scale and gain: pictures, and one layer's outputs, in ComfyUI and in ours."""

from __future__ import annotations

from bootstrap import REQUEST, answer

from demo_pictures import calibrated, in_comfyui, in_our_runtime, part, runtime

from pathlib import Path

import comfy.sd
import torch

converters = part("converters")
nvfp4 = part("converters.formats.nvfp4")
sheet = part("demo.sheet")


def load(path: Path) -> object:
    return comfy.sd.load_diffusion_model(str(path))


def predicted(module: str, tensors: dict[str, torch.Tensor], original: torch.Tensor) -> torch.Tensor:
    """A layer's outputs on the rows that were kept, as the simulation has them."""
    scale = tensors["pre_quant_scale"]
    values = collected.layers[module].reservoir.values() * scale
    quantized = nvfp4.quantized_input(values, float(tensors["input_scale"]))
    plain = nvfp4.unblocked_scales(tensors["weight_scale"].view(torch.float8_e4m3fn), tuple(original.shape))
    decoded = nvfp4.decode_rows(tensors["weight"], plain, tensors["weight_scale_2"], original.shape[1])
    return quantized @ decoded[: original.shape[0]].T


source = Path(REQUEST["source"])
model = runtime.load_model(source)
collected = calibrated(model)

target = Path(REQUEST["work"]) / "searched.safetensors"
options = converters.Options(rounding="weighted", pre_quant="search", gain=True)
searched = converters.convert(source, target, options, calibration=collected, device="cpu").plan.layers

patcher = load(target)
expected = {"comfyui": in_comfyui(load(source)), "ours": in_our_runtime(source)}
drawn = {"comfyui": in_comfyui(patcher), "ours": in_our_runtime(target)}

from safetensors.torch import load_file  # noqa: E402

stored = load_file(target)
module = REQUEST["layer"]
tensors = {key[len(module) + 1 :]: value for key, value in stored.items() if key.startswith(f"{module}.")}
layer = patcher.model.diffusion_model.get_submodule(module)
rows = collected.layers[module].reservoir.values()
with torch.inference_mode():
    bias = layer.bias if layer.bias is not None else torch.zeros(())
    got = layer(rows).float() - bias.float()
wanted = predicted(module, tensors, model.get_submodule(module).weight)
answer(
    found=sum(layer.pre_quant_exponent is not None for layer in searched),
    with_scale=sum(key.endswith(".pre_quant_scale") for key in stored),
    loaded=sum(getattr(each, "pre_quant_scale", None) is not None for each in patcher.model.diffusion_model.modules()),
    psnr={where: sheet.psnr(expected[where], drawn[where]) for where in drawn},
    difference=float((got - wanted).square().sum() / wanted.square().sum()),
    without=float(
        (model.get_submodule(module).weight @ rows.float().T - wanted.T).square().sum() / wanted.square().sum()
    ),
)
