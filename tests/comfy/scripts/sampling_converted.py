# ruff: noqa: E402, I001  (ComfyUI must be set up before it is imported)
"""The demo checkpoint: calibrate in ComfyUI, convert, load with UNETLoader, sample with both kinds of kernels."""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bootstrap import REQUEST, answer, load_pack

import comfy.model_management
import comfy.ops
import folder_paths
import torch
from safetensors.torch import load_file, save_file
from nodes import UNETLoader, common_ksampler

load_pack()
from custom_nodes_nvfp4.calibration import load
from custom_nodes_nvfp4.converters.convert import convert
from custom_nodes_nvfp4.converters.options import Options
from custom_nodes_nvfp4.demo.conditioning import class_conditioning
from custom_nodes_nvfp4.demo.data import from_comfy, unfold
from custom_nodes_nvfp4.demo.sheet import psnr
from custom_nodes_nvfp4.nodes import patching

SOURCE = "digits-flux-fp8.safetensors"
STEPS = 20
models = Path(folder_paths.models_dir) / "diffusion_models"
models.mkdir(parents=True, exist_ok=True)
shutil.copy(Path(REQUEST["pack"]) / "demo" / "assets" / SOURCE, models / SOURCE)
calibration_file = Path(REQUEST["work"]) / "digits.safetensors"
quantized_calls: Counter[str] = Counter()


def generate(model: object, seeds: tuple[int, ...]) -> torch.Tensor:
    """Ten digits per seed, as pictures [10 * len(seeds), 32, 32] with ink 0..1."""
    context, pooled = class_conditioning(range(10))
    conditioning = [[context, {"pooled_output": pooled}]]
    latent = {"samples": torch.zeros(10, 16, 8, 8)}
    pictures = []
    for seed in seeds:
        sampled = common_ksampler(model, seed, STEPS, 1.0, "euler", "simple", conditioning, conditioning, latent)
        pictures.append(unfold(from_comfy(sampled[0]["samples"])))
    return torch.cat(pictures)


def loaded(name: str) -> object:
    return UNETLoader().load_unet(name, "default")[0]


def formats(model: object) -> dict[str, int]:
    """Layers by the format that ComfyUI loaded."""
    kinds = (getattr(module, "quant_format", None) for module in model.model.diffusion_model.modules())
    return dict(Counter(kind for kind in kinds if kind))


def without_full_precision(name: str) -> str:
    """The source as other tools write it: FP8 layers that run quantized, without an input_scale."""
    sd = load_file(models / SOURCE)
    tag = torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
    save_file(
        {key: tag.clone() if key.endswith(".comfy_quant") else tensor for key, tensor in sd.items()}, models / name
    )
    return name


def convert_and_compare(
    name: str, options: Options, source: torch.Tensor, source_name: str = SOURCE
) -> dict[str, object]:
    target = models / name
    report = convert(models / source_name, target, options, calibration=load(calibration_file), device="cpu")
    emulated = loaded(name)
    result = {"formats": formats(emulated), "emulated": psnr(source, generate(emulated, (101, 102)))}
    result["summary"] = {key: report.summary[key] for key in ("ratio", "nvfp4_layers", "fp8_layers", "mean_sqnr_db")}
    result["emulated_quantized_calls"] = sum(quantized_calls.values())
    with_tensor_cores = {name: lambda device=None: True for name in ("supports_nvfp4_compute", "supports_fp8_compute")}
    saved = {name: getattr(comfy.model_management, name) for name in with_tensor_cores}
    vars(comfy.model_management).update(with_tensor_cores)
    try:
        quantized = loaded(name)
        pictures = generate(quantized, (101, 102))
    finally:
        vars(comfy.model_management).update(saved)
    result["quantized"] = psnr(source, pictures)
    result["worst_picture"] = min(psnr(one, other) for one, other in zip(source, pictures, strict=True))
    result["quantized_calls"] = dict(quantized_calls)
    quantized_calls.clear()
    return result


@contextlib.contextmanager
def counting() -> Iterator[None]:
    """Count the activations that are quantized, by layout."""
    quantized = comfy.ops.QuantizedTensor
    from_float = quantized.from_float

    def counted(tensor: torch.Tensor, layout: str, *args: object, **kwargs: object) -> torch.Tensor:
        quantized_calls[layout] += 1
        return from_float(tensor, layout, *args, **kwargs)

    quantized.from_float = counted
    try:
        yield
    finally:
        quantized.from_float = from_float


def main() -> None:
    model = loaded(SOURCE)
    plain = generate(model, (1,))
    patch = patching.CalibrationPatch(calibration_file, restart=False, show=lambda text: None)
    watched = generate(patching.add_calibration(model, patch), (1, 2))
    result: dict[str, object] = {"equal": torch.equal(plain, watched[:10]), "source_formats": formats(model)}
    result["calibration"] = load(calibration_file).summary()
    result["ink"] = float(watched.mean())
    source = generate(model, (101, 102))
    for name, options in {"default": Options(), "weight-only": Options(recipe="weight-only")}.items():
        with counting():
            result[name] = convert_and_compare(f"{name}.safetensors", options, source)
    with counting():
        plain_tags = without_full_precision("plain-tags.safetensors")
        result["mixed"] = convert_and_compare("mixed.safetensors", Options(), source, plain_tags)
    answer(**result)


main()
