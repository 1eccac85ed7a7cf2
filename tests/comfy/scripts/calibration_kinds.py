# ruff: noqa: I001  (ComfyUI must be set up before it is imported)
"""Calibration of models of other kinds: video latents, mixtures of experts, models that are quantized already."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from bootstrap import answer

import comfy.model_management
import comfy.ops
import comfy.sd
import mini_models
import torch
from nodes import common_ksampler
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_models import conditioning, write_flux
from watching import WORK, Sampling, compare, path_of

from custom_nodes_nvfp4.calibration import load, other_weights_than
from custom_nodes_nvfp4.calibration.statistics import samples_of
from custom_nodes_nvfp4.converters import convert
from custom_nodes_nvfp4.converters.options import Options

CHECKS = ("supports_nvfp4_compute", "supports_fp8_compute")
Result = dict[str, Any]


def sampling(start: torch.Tensor, positive: Any, negative: Any) -> Sampling:
    """KSampler with both passes."""

    def sample(model: Any) -> torch.Tensor:
        latent = {"samples": start}
        return common_ksampler(model, 7, 4, 2.5, "euler", "simple", positive, negative, latent)[0]["samples"]

    return sample


FLUX = sampling(torch.zeros(2, 16, 8, 8), conditioning(seed=1), conditioning(seed=2))
WAN = sampling(torch.zeros(1, 16, 3, 4, 4), mini_models.text(6, 4096, 1), mini_models.text(6, 4096, 2))


def videos(result: Result) -> None:
    result["Wan"] = compare("wan", mini_models.wan(), WAN)
    mask = torch.ones(1, 6, dtype=torch.int64)
    prompts = (mini_models.text(6, 48, seed, attention_mask=mask) for seed in (1, 2))
    result["LTX-Video"] = compare("ltxv", mini_models.ltxv(), sampling(torch.zeros(1, 128, 3, 4, 4), *prompts))


def experts(result: Result) -> None:
    """HiDream's experts are Linear layers, of which a small picture leaves some idle; expert banks are none."""
    generator = torch.Generator().manual_seed(1)
    pooled, llama = torch.randn(1, 40, generator=generator), torch.randn(1, 2, 5, 48, generator=generator)
    prompts = (mini_models.text(6, 32, seed, pooled_output=pooled, conditioning_llama3=llama * seed) for seed in (1, 2))
    result["HiDream"] = compare("hidream", mini_models.hidream(), sampling(torch.zeros(1, 16, 4, 4), *prompts))

    flux = loaded("source")
    flux.model.diffusion_model.double_blocks[0].txt_mlp = _Experts()
    result["expert bank"] = compare("bank", flux, FLUX)


class _Experts(torch.nn.Module):
    """A mixture of two experts in ComfyUI's own banks."""

    def __init__(self) -> None:
        super().__init__()
        operations = comfy.ops.mixed_precision_ops({}, torch.float32)
        self.up, self.down = operations.MoEExperts(2, 128, 512), operations.MoEExperts(2, 512, 128)
        for bank in (self.up, self.down):
            bank.weight = torch.nn.Parameter(torch.empty(2, bank.out_features, bank.in_features))
        mini_models.fill(self)
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = [torch.nn.functional.gelu(self.up.expert_linear(x, expert)) for expert in range(2)]
        return sum(self.down.expert_linear(values, expert) for expert, values in enumerate(hidden))


@contextlib.contextmanager
def quantized_inputs() -> Iterator[None]:
    """Models that are loaded meanwhile multiply in the format of their weights, as on a GPU that can."""
    saved = {check: getattr(comfy.model_management, check) for check in CHECKS}
    vars(comfy.model_management).update(dict.fromkeys(CHECKS, lambda device=None: True))
    try:
        yield
    finally:
        vars(comfy.model_management).update(saved)


def loaded(name: str) -> Any:
    return comfy.sd.load_diffusion_model(str(WORK / f"{name}.safetensors"))


def converted(source: str, target: str, recipe: str) -> None:
    convert(WORK / f"{source}.safetensors", WORK / f"{target}.safetensors", Options(recipe=recipe), device="cpu")


def fp8(result: Result) -> None:
    write_flux(str(WORK / "fp8.safetensors"))
    stored = load_file(WORK / "fp8.safetensors")
    with safe_open(WORK / "fp8.safetensors", "pt") as file:
        metadata = {key: text.replace("true", "false") for key, text in file.metadata().items()}
    scales = {f"{name[:-13]}.input_scale": torch.tensor(0.02) for name in stored if name.endswith("weight_scale")}
    tagless = {name: tensor for name, tensor in stored.items() if not name.endswith("comfy_quant")}
    save_file({**tagless, **scales}, WORK / "fp8-inputs.safetensors", metadata=metadata)
    result["FP8"] = compare("fp8", loaded("fp8"), FLUX)
    with quantized_inputs():
        result["FP8, inputs too"] = compare("fp8-inputs", loaded("fp8-inputs"), FLUX)


def nvfp4(result: Result) -> None:
    """Weights divided by a pre_quant_scale and the scale beside them: the same function, up to rounding."""
    source = load_file(WORK / "source.safetensors")
    generator = torch.Generator().manual_seed(9)
    converted("source", "nvfp4", "weight-only")
    layers = [name[: -len(".weight_scale_2")] for name in load_file(WORK / "nvfp4.safetensors") if name.endswith("_2")]
    scales = {}
    for layer in layers:
        scale = torch.rand(source[f"{layer}.weight"].shape[1], generator=generator) * 0.8 + 0.6
        source[f"{layer}.weight"] = (source[f"{layer}.weight"].float() / scale).to(torch.bfloat16)
        scales[f"{layer}.pre_quant_scale"] = scale.to(torch.bfloat16)
    save_file(source, WORK / "divided.safetensors")
    converted("divided", "divided-nvfp4", "weight-only")
    with safe_open(WORK / "divided-nvfp4.safetensors", "pt") as file:
        metadata = file.metadata()
    save_file(
        {**load_file(WORK / "divided-nvfp4.safetensors"), **scales}, WORK / "smooth.safetensors", metadata=metadata
    )

    result["original"] = compare("original", loaded("source"), FLUX)
    result["NVFP4 with pre_quant_scale"] = compare("smooth", loaded("smooth"), FLUX)
    with quantized_inputs():
        result["NVFP4 with pre_quant_scale, inputs too"] = compare("smooth-inputs", loaded("smooth"), FLUX)
    original, smooth = load(path_of("original")), load(path_of("smooth"))
    ratios = [layer.amax / original.layers[name].amax for name, layer in smooth.layers.items()]
    # The statistics are of the layers' own inputs, so they serve the original too.
    used = convert(
        WORK / "source.safetensors", WORK / "served.safetensors", Options(), calibration=smooth, device="cpu"
    )
    result["pre_quant_scale"] = {
        "layers": len(scales),
        "ratios": [min(ratios), max(ratios)],
        "other_weights": other_weights_than(original, samples_of(smooth.layers)),
        "warnings": list(used.plan.warnings),
    }


def int8(result: Result) -> None:
    """Wan's second MLP layer multiplies in a kernel that applies GELU as well and calls no module."""
    wan = mini_models.model(
        "WAN21_T2V", {**mini_models.WAN, "dim": 256, "ffn_dim": 512, "num_heads": 2}, dtype=torch.bfloat16
    )
    weights = {name: tensor.contiguous() for name, tensor in wan.model.diffusion_model.state_dict().items()}
    save_file(weights, WORK / "wan.safetensors")
    converted("wan", "wan-int8", "int8")
    result["INT8"] = compare("int8", loaded("wan-int8"), WAN)


def main() -> None:
    write_flux(str(WORK / "source.safetensors"), fp8=False)
    result: Result = {}
    for kind in (videos, experts, fp8, nvfp4, int8):
        kind(result)
    answer(**result)


main()
