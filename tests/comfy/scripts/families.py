# ruff: noqa: I001  (ComfyUI must be set up before it is imported)
"""Plan every family's model and ask ComfyUI what it makes of the planned file. Nothing here needs real weights.

For each model: the key layout comes from ComfyUI's own class on the meta device, the source is a sparse file of
zeros, and the planned file is a table of meta tensors with the names, dtypes and shapes that would be written.
Which weights must not be packed is found by trial: pack one, and see whether the detected model changes.
"""

from __future__ import annotations

from bootstrap import REQUEST, answer, load_pack

import importlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_detection
import comfy.ops
import comfy.sd
import comfy.utils
import torch

from family_models import DIFFUSION_MODELS, TEXT_ENCODERS, DiffusionModel, TextEncoder

logging.disable(logging.ERROR)
META = torch.device("meta")
PUBLISHED = {"model.language_model.": "model.", "model.visual.": "visual."}
"""Prefixes on Hugging Face and what ``load_text_encoder_state_dicts`` makes of them."""
CODES = {torch.bfloat16: "BF16", torch.float32: "F32", torch.float16: "F16", torch.int64: "I64", torch.uint8: "U8"}
CODES[torch.float8_e4m3fn] = "F8_E4M3"
converters = importlib.import_module(f"{load_pack().__name__}.converters")
families = importlib.import_module(f"{converters.__name__}.families")
nvfp4 = importlib.import_module(f"{converters.__name__}.formats.nvfp4")
StateDict = dict[str, torch.Tensor]


def empty(shape: tuple[int, ...], dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=META)


class Diffusion:
    """A diffusion model as ``load_diffusion_model_state_dict`` treats it."""

    def __init__(self, model: DiffusionModel):
        self.metadata = model.metadata
        if model.config:
            config = comfy.model_detection.model_config_from_unet_config(model.config)
        else:
            seed = {key: empty(shape) for key, shape in model.seed.items()}
            config = comfy.model_detection.model_config_from_unet(seed, "", metadata=self.metadata)
        self.layout: StateDict = {}
        for name, tensor in self._build(config).state_dict().items():
            for ours, theirs in model.published:
                name = name.replace(ours, theirs)
            self.layout[name] = tensor
        self.config = config

    def module_name(self, layer: str) -> str:
        """The layer's name in the model's module tree."""
        (name,) = self.config.process_unet_state_dict({f"{layer}.weight": None})
        return str(name).removesuffix(".weight")

    def identify(self, state: StateDict, metadata: dict[str, str]) -> str:
        """The model's class and configuration, or the error that detection ends with."""
        try:
            config = comfy.model_detection.model_config_from_unet(state, "", metadata=metadata)
        except Exception as error:  # noqa: BLE001  (whatever detection raises is a wrong answer)
            return f"{type(error).__name__}: {error}"
        return "nothing" if config is None else f"{type(config).__name__} {sorted(config.unet_config.items())}"

    def load(self, state: StateDict, metadata: dict[str, str]) -> tuple[torch.nn.Module, list[str]]:
        """The model with these weights, and what ComfyUI missed or did not expect."""
        config = comfy.model_detection.model_config_from_unet(state, "", metadata=metadata)
        module = self._build(config)
        result = module.load_state_dict(config.process_unet_state_dict(dict(state)), strict=False, assign=True)
        return module, [*result.missing_keys, *result.unexpected_keys]

    def build_mixed(self) -> torch.nn.Module:
        """The model with the modules that it gets for a quantized file."""
        config = comfy.model_detection.model_config_from_unet(self.layout, "", metadata=self.metadata)
        config.quant_config = {"mixed_ops": True}
        return self._build(config)

    @staticmethod
    def _build(config: Any) -> torch.nn.Module:
        config.set_inference_dtype(torch.bfloat16, torch.bfloat16 if config.quant_config else None)
        return config.get_model({}, "", device=META).diffusion_model


class Encoder:
    """A text encoder in a file of its own, as ``load_text_encoder_state_dicts`` treats it."""

    def __init__(self, model: TextEncoder):
        module, _, name = model.model.partition(".")
        folder = importlib.import_module(f"comfy.text_encoders.{module}")
        self.config = (
            {} if model.config is None else json.loads((Path(folder.__file__).parent / model.config).read_text())
        )
        self.kind = getattr(folder, name)
        self.metadata: dict[str, str] = {}
        layout = self._build(comfy.ops.manual_cast).state_dict()
        self.published = dict(PUBLISHED) if model.published else {}
        self.layout: StateDict = comfy.utils.state_dict_prefix_replace(
            dict(layout), {ours: theirs for theirs, ours in self.published.items()}
        )

    def module_name(self, layer: str) -> str:
        """The layer's name in the model's module tree."""
        return next(
            (ours + layer[len(theirs) :] for theirs, ours in self.published.items() if layer.startswith(theirs)), layer
        )

    def identify(self, state: StateDict, metadata: dict[str, str]) -> str:
        return str(comfy.sd.detect_te_model(state))

    def load(self, state: StateDict, metadata: dict[str, str]) -> tuple[torch.nn.Module, list[str]]:
        quantized = comfy.utils.detect_layer_quantization(state, "")
        mixed = comfy.ops.mixed_precision_ops(quantized, torch.bfloat16, full_precision_mm=True)
        module = self._build(mixed if quantized else comfy.ops.manual_cast)
        named = comfy.utils.state_dict_prefix_replace(dict(state), self.published)
        result = module.load_state_dict(named, strict=False, assign=True)
        return module, [*result.missing_keys, *result.unexpected_keys]

    def build_mixed(self) -> torch.nn.Module:
        return self._build(comfy.ops.mixed_precision_ops({"mixed_ops": True}, torch.bfloat16, full_precision_mm=True))

    def _build(self, operations: Any) -> torch.nn.Module:
        return self.kind(self.config, torch.bfloat16, META, operations)


def raw_fp8(layout: StateDict) -> StateDict:
    """The same model with every matrix cast to FP8, as many files are published."""
    return {
        name: tensor.to(torch.float8_e4m3fn) if tensor.dim() == 2 and name.endswith(".weight") else tensor
        for name, tensor in layout.items()
    }


def write_sparse(path: Path, layout: StateDict, prefix: str, metadata: dict[str, str]) -> None:
    """A safetensors file of zeros that takes no room on the disk."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, tensor in layout.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[prefix + name] = {
            "dtype": CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    head = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(8 + len(head) + end)


def planned(
    model: Diffusion | Encoder, stored: StateDict, path: Path, prefix: str, recipe: str | None
) -> dict[str, Any]:
    """Plan a conversion and let ComfyUI recognise and load what would be written."""
    write_sparse(path, stored, prefix, model.metadata)
    layout = "diffusion-model" if prefix else "source"
    with converters.open_source(path) as source:
        family = families.detect_family(source.tensors)
        try:
            plan = converters.make_plan(source, converters.Options(recipe=recipe, layout=layout))
        except converters.PlanError as error:
            return {"refused": str(error), "family": family.name}
    state = {spec.name: empty(spec.shape, spec.dtype) for spec in plan.specs()}
    state, metadata = comfy.utils.convert_old_quants(state, "", dict(plan.metadata))
    facts = {
        "family": plan.family, "recipe": plan.recipe, "formats": plan.count(), "kept": _kept(plan),
        "same": model.identify(state, metadata) == model.identify(model.layout, model.metadata),
    }  # fmt: skip
    try:
        module, problems = model.load(state, metadata)
    except Exception as error:  # noqa: BLE001  (whatever the loader raises is the answer)
        return {**facts, "problems": [f"{type(error).__name__}: {error}"[:1000]], "loaded": {}}
    layouts = [getattr(part, "quant_format", None) for part in module.modules()]
    return {
        **facts,
        "problems": problems,
        "loaded": {name: layouts.count(name) for name in sorted({name for name in layouts if name})},
    }


def _kept(plan: Any) -> list[str]:
    """Layers inside the blocks that stay as they are, by their names without numbers."""
    names = (layer.module for layer in plan.layers if layer.format == layer.source_format)
    return sorted({".".join("N" if part.isdecimal() else part for part in name.split(".")) for name in names})


def trial(model: Diffusion | Encoder) -> tuple[list[str], list[str]]:
    """Layers whose packing changes the detected model, and two-dimensional weights of modules that are no Linear."""
    layers = [name[:-7] for name, tensor in model.layout.items() if name.endswith(".weight") and tensor.dim() == 2]
    right = model.identify(model.layout, model.metadata)

    def halved(rows: int, columns: int) -> tuple[int, int]:
        return rows, columns // 2

    def packed(rows: int, columns: int) -> tuple[int, int]:
        return nvfp4.declare((rows, columns), {})["weight"][1]

    def noticed(layers: list[str], change: Callable[[int, int], tuple[int, int]]) -> list[str]:
        """Change all of them; where that makes a difference, look for the ones that make it, half by half."""
        changed = {f"{name}.weight": empty(change(*model.layout[f"{name}.weight"].shape)) for name in layers}
        if model.identify({**model.layout, **changed}, model.metadata) == right:
            return []
        half = len(layers) // 2
        return layers if half == 0 else noticed(layers[:half], change) + noticed(layers[half:], change)

    module = model.build_mixed()
    other = [name for name in layers if not _is_mixed_linear(module.get_submodule(model.module_name(name)))]
    return sorted({*noticed(layers, halved), *noticed(layers, packed)}), other


def _is_mixed_linear(module: torch.nn.Module) -> bool:
    return any(kind.__qualname__.endswith("MixedPrecisionOps.Linear") for kind in type(module).__mro__)


def examine(model: Diffusion | Encoder, path: Path) -> dict[str, Any]:
    prefix = "model.diffusion_model." if isinstance(model, Diffusion) else ""
    plans = {
        "default": planned(model, model.layout, path, prefix, None),
        "default from FP8": planned(model, raw_fp8(model.layout), path, "", None),
        "weight-only": planned(model, model.layout, path, "", "weight-only"),
    }
    sniffed, other = trial(model)
    with converters.open_source(path) as source:
        family = families.detect_family(source.tensors)
        weights = [name for name, info in source.tensors.items() if name.endswith(".weight") and len(info.shape) == 2]
    guarded = {name[:-7] for name in weights if family.guards(name[:-7])}
    return {
        "model": model.identify(model.layout, model.metadata).partition(" ")[0],
        "family": family.name,
        "sniffed": sniffed,
        "not_linear": other,
        "holes": sorted({*sniffed, *other} - guarded),
        "unneeded": sorted(guarded - {*sniffed, *other}),
        "plans": plans,
    }


makers: dict[str, Callable[[], Diffusion | Encoder]] = {
    **{name: lambda model=model: Diffusion(model) for name, model in DIFFUSION_MODELS.items()},
    **{name: lambda model=model: Encoder(model) for name, model in TEXT_ENCODERS.items()},
}
chosen = REQUEST.get("models") or list(makers)
target = Path(REQUEST["base"]) / "family.safetensors"
answer(models={name: examine(makers[name](), target) for name in chosen})
