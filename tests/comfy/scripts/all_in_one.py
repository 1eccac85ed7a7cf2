# ruff: noqa: E402, I001  (ComfyUI must be set up before it is imported)
"""An all-in-one file (SD3's loader, CLIP-L cast to FP8) before and after conversion, through the standard loaders."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from bootstrap import REQUEST, answer, load_pack

import comfy.model_management
import comfy.ops
import folder_paths
import torch
from nodes import CheckpointLoaderSimple, UNETLoader, common_ksampler
from all_in_one_model import write_all_in_one

load_pack()
from custom_nodes_nvfp4.calibration import load
from custom_nodes_nvfp4.converters.convert import convert
from custom_nodes_nvfp4.converters.options import Options
from custom_nodes_nvfp4.nodes import patching

checkpoints = Path(folder_paths.models_dir) / "checkpoints"
models = Path(folder_paths.models_dir) / "diffusion_models"
calibration_file = Path(REQUEST["work"]) / "aio.safetensors"


def opened(name: str) -> tuple[object, object]:
    return CheckpointLoaderSimple().load_checkpoint(name)[:2]


def encoded(clip: object) -> list[list[object]]:
    return clip.encode_from_tokens_scheduled(clip.tokenize("a red fox in the snow, (sunrise:1.2)"))


def sampled(model: object, conditioning: object) -> torch.Tensor:
    latent = {"samples": torch.zeros(2, 16, 8, 8)}
    return common_ksampler(model, 3, 6, 1.0, "euler", "simple", conditioning, conditioning, latent)[0]["samples"]


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    """Peak: the range of the first. dB."""
    error = (one - other).double().pow(2).mean()
    return float(10 * torch.log10((one.max() - one.min()).double() ** 2 / error))


def main() -> None:
    for folder in (checkpoints, models):
        folder.mkdir(parents=True, exist_ok=True)
    source, target = checkpoints / "source.safetensors", checkpoints / "converted.safetensors"
    alone = models / "alone.safetensors"
    write_all_in_one(str(source))
    model, clip = opened(source.name)
    conditioning = encoded(clip)
    patch = patching.CalibrationPatch(calibration_file, restart=False, show=lambda text: None)
    before = sampled(patching.add_calibration(model, patch), conditioning)
    calibration = load(calibration_file)
    convert(source, target, Options(), calibration=calibration, device="cpu")
    options = Options(layout="diffusion-model")
    convert(source, alone, options, calibration=calibration, device="cpu")

    converted, converted_clip = opened(target.name)
    after = encoded(converted_clip)
    result: dict[str, object] = {
        "conditioning_equal": torch.equal(conditioning[0][0], after[0][0]),
        "conditioning_size": float(conditioning[0][0].abs().mean()),
        "pooled_equal": torch.equal(conditioning[0][1]["pooled_output"], after[0][1]["pooled_output"]),
        "formats": dict(
            Counter(
                module.quant_format
                for module in converted.model.diffusion_model.modules()
                if getattr(module, "quant_format", None)
            )
        ),
        "bytes": target.stat().st_size,
        "alone_bytes": alone.stat().st_size,
    }
    emulated = sampled(converted, after)
    result["emulated"] = psnr(before, emulated)
    result["alone_equal"] = torch.equal(emulated, sampled(UNETLoader().load_unet(alone.name, "default")[0], after))

    comfy.model_management.supports_nvfp4_compute = lambda device=None: True
    comfy.model_management.supports_fp8_compute = lambda device=None: True
    calls: Counter[str] = Counter()
    from_float = comfy.ops.QuantizedTensor.from_float

    def counted(tensor: torch.Tensor, layout: str, *args: object, **kwargs: object) -> torch.Tensor:
        calls[layout] += 1
        return from_float(tensor, layout, *args, **kwargs)

    comfy.ops.QuantizedTensor.from_float = counted
    result["quantized"] = psnr(before, sampled(opened(target.name)[0], after))
    result["quantized_calls"] = sum(calls.values())
    answer(**result)


main()
