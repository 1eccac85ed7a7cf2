# ruff: noqa: I001  (ComfyUI must be set up before it is imported)
"""The demo model with a searched pre_quant_scale and gain: pictures, and one layer's outputs, in ComfyUI and in ours."""

from __future__ import annotations

from bootstrap import REQUEST, answer, load_pack

import importlib
from pathlib import Path

import comfy.model_management
import comfy.sample
import comfy.sd
import torch

pack = load_pack().__name__
calibration = importlib.import_module(f"{pack}.calibration")
conditioning = importlib.import_module(f"{pack}.demo.conditioning")
converters = importlib.import_module(f"{pack}.converters")
data = importlib.import_module(f"{pack}.demo.data")
formats = importlib.import_module(f"{pack}.converters.formats")
runtime = importlib.import_module(f"{pack}.demo.runtime")
sampling = importlib.import_module(f"{pack}.demo.sampling")
sheet = importlib.import_module(f"{pack}.demo.sheet")

LABELS = list(range(10))
SEEDS = [100 + label for label in LABELS]
for name in ("supports_nvfp4_compute", "supports_fp8_compute"):
    setattr(comfy.model_management, name, lambda device=None: True)


def load(path: Path) -> object:
    return comfy.sd.load_diffusion_model(str(path))


def in_comfyui(patcher: object) -> torch.Tensor:
    """Ink [10, 32, 32] of every class."""
    context, pooled = conditioning.class_conditioning(LABELS)
    positive = [[context, {"pooled_output": pooled}]]
    noise = sampling.start_noise(SEEDS)
    zeros = torch.zeros_like(noise)
    latent = comfy.sample.sample(patcher, noise, 20, 1.0, "euler", "simple", positive, positive, zeros, seed=0)
    return data.unfold(data.from_comfy(latent))


def in_our_runtime(path: Path) -> torch.Tensor:
    return data.unfold(sampling.sample(runtime.load_model(path), LABELS, SEEDS))


def predicted(module: str, tensors: dict[str, torch.Tensor], original: torch.Tensor) -> torch.Tensor:
    """A layer's outputs on the rows that were kept, as the simulation has them."""
    scale = tensors["pre_quant_scale"]
    values = collected.layers[module].reservoir.values() * scale
    quantized = formats.nvfp4.quantized_input(values, float(tensors["input_scale"]))
    plain = formats.nvfp4.unblocked_scales(tensors["weight_scale"].view(torch.float8_e4m3fn), tuple(original.shape))
    decoded = formats.nvfp4.decode_rows(tensors["weight"], plain, tensors["weight_scale_2"], original.shape[1])
    return quantized @ decoded[: original.shape[0]].T


source = Path(REQUEST["source"])
model = runtime.load_model(source)
collector = calibration.Collector(model, detail="curvature")
labels = LABELS * 4
sampling.sample(model, labels, list(range(len(labels))), observing=collector.observing)
collected = collector.finish(images=len(labels))

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
