# ruff: noqa: E402, I001  (ComfyUI must be set up before it is imported)
"""The demo checkpoint in every format: loaded with UNETLoader, decoded, sampled with the format's own kernels."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path

from bootstrap import REQUEST, answer, load_pack

import comfy.model_management
import folder_paths
import torch
from comfy.quant_ops import QuantizedTensor, get_layout_class
from nodes import UNETLoader, common_ksampler

load_pack()
from custom_nodes_nvfp4.converters import convert, open_source
from custom_nodes_nvfp4.converters.formats import POLICIES
from custom_nodes_nvfp4.converters.layers import recognise
from custom_nodes_nvfp4.converters.stored import decoder
from custom_nodes_nvfp4.converters.options import Options
from custom_nodes_nvfp4.demo.conditioning import class_conditioning
from custom_nodes_nvfp4.demo.data import from_comfy, unfold
from custom_nodes_nvfp4.demo.sheet import psnr

SOURCE = "digits-flux-fp8.safetensors"
BUILT_IN = ("mxfp8", "int8")
CHECKS = ("supports_nvfp4_compute", "supports_mxfp8_compute", "supports_fp8_compute")
models = Path(folder_paths.models_dir) / "diffusion_models"
models.mkdir(parents=True, exist_ok=True)
shutil.copy(Path(REQUEST["pack"]) / "demo" / "assets" / SOURCE, models / SOURCE)


def generate(model: object) -> torch.Tensor:
    """Ten digits as pictures [10, 32, 32] with ink 0..1."""
    context, pooled = class_conditioning(range(10))
    conditioning = [[context, {"pooled_output": pooled}]]
    latent = {"samples": torch.zeros(10, 16, 8, 8)}
    sampled = common_ksampler(model, 101, 12, 1.0, "euler", "simple", conditioning, conditioning, latent)
    return unfold(from_comfy(sampled[0]["samples"]))


def loaded(name: str) -> object:
    return UNETLoader().load_unet(name, "default")[0]


def config(model: object) -> str:
    settings = {key: str(value) for key, value in model.model.model_config.unet_config.items()}
    return json.dumps([type(model.model).__name__, settings], sort_keys=True)


def decoded_alike(model: object, path: Path) -> bool:
    """Whether ComfyUI's own dequantization of every quantized layer gives what the verifier measures."""
    with open_source(path) as source:
        layers = recognise(source).layers
        alike = []
        for name, module in model.model.diffusion_model.named_modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, QuantizedTensor):
                shape = tuple(weight._params.orig_shape)
                params = dataclasses.replace(weight._params, orig_dtype=torch.float32)
                theirs = get_layout_class(module.layout_type).dequantize(weight._qdata, params)
                alike.append(
                    torch.equal(theirs[: shape[0], : shape[1]], decoder(source, layers[name], shape)(0, shape[0]))
                )
    return bool(alike) and all(alike)


def recipe(policy: str) -> str:
    path = Path(REQUEST["work"]) / f"{policy}.json"
    rules = [{"policy": policy, "match": ["_attn.", "_mlp.", ".linear"]}]
    path.write_text(json.dumps({"block_names": ["_blocks."], "rules": rules}), "utf-8")
    return str(path)


def main() -> None:
    model = loaded(SOURCE)
    source, wanted = generate(model), config(model)
    result: dict[str, object] = {}
    # The source is FP8 throughout, so a recipe of FP8 alone would quantize nothing.
    for name in [*(POLICIES.keys() - {"float8_e4m3fn"}), *(f"recipe {name}" for name in BUILT_IN)]:
        target = models / f"{name.replace(' ', '-')}.safetensors"
        options = Options(recipe=name.removeprefix("recipe ") if name.startswith("recipe ") else recipe(name))
        report = convert(models / SOURCE, target, options, device="cpu")
        converted = loaded(target.name)
        kinds = Counter(getattr(module, "quant_format", None) for module in converted.model.diffusion_model.modules())
        found = {
            "formats": {kind: count for kind, count in kinds.items() if kind},
            "planned": report.plan.count(),
            "config": config(converted) == wanted,
            "alike": decoded_alike(converted, target),
            "sqnr": report.verification.mean_sqnr_db(),
            "psnr": psnr(source, generate(converted)),
        }
        saved = {check: getattr(comfy.model_management, check) for check in CHECKS}
        vars(comfy.model_management).update(dict.fromkeys(CHECKS, lambda device=None: True))
        try:
            found["psnr_quantized_inputs"] = psnr(source, generate(loaded(target.name)))
        finally:
            vars(comfy.model_management).update(saved)
        result[name] = found
    answer(**result)


main()
