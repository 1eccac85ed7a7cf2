# ruff: noqa: E402, I001  (ComfyUI must be set up before it is imported)
"""An all-in-one SD3 file with CLIP-L and a narrow T5, its text encoders converted, through CheckpointLoaderSimple."""

from __future__ import annotations

import functools
import re
from collections import Counter
from pathlib import Path

from bootstrap import answer, load_pack

import comfy.ops
import comfy.sd
import comfy.supported_models
import comfy.text_encoders.t5
import folder_paths
import torch
from nodes import CheckpointLoaderSimple
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from all_in_one_model import filled, write_all_in_one

load_pack()
from custom_nodes_nvfp4.converters import Options, convert
from custom_nodes_nvfp4.converters.encoder_signatures import QUANTIZED_ENCODERS

T5 = "text_encoders.t5xxl.transformer."
NARROW = {"d_ff": 512, "num_heads": 4, "num_layers": 6}
"""T5-XXL's width, which SD3 expects, with fewer and narrower layers."""
checkpoints = Path(folder_paths.models_dir) / "checkpoints"
comfy.sd.load_checkpoint_guess_config = functools.partial(
    comfy.sd.load_checkpoint_guess_config, te_model_options={"t5xxl_model_config": NARROW}
)


def write_source(path: Path) -> None:
    write_all_in_one(str(path))
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
    config = {
        "d_model": 4096,
        "d_kv": 64,
        "vocab_size": 32128,
        "dense_act_fn": "gelu_pytorch_tanh",
        "is_gated_act": True,
        "model_type": "t5",
        **NARROW,
    }
    encoder = comfy.text_encoders.t5.T5(config, torch.float32, "cpu", comfy.ops.disable_weight_init)
    for name, tensor in filled(encoder, torch.Generator().manual_seed(8)).items():
        # T5 does not divide its logits by the square root of the head's width: trained queries are that much smaller.
        tensors[T5 + name] = (tensor / 8 if name.endswith("SelfAttention.q.weight") else tensor).to(torch.bfloat16)
    save_file(tensors, path, metadata=metadata)


def encoded(name: str) -> tuple[torch.Tensor, torch.Tensor, dict[str, dict[str, int]]]:
    """Conditioning of CLIP-L and of T5, and the layers of each encoder by the format that ComfyUI loaded."""
    clip = CheckpointLoaderSimple().load_checkpoint(name)[1]
    conditioning = clip.encode_from_tokens_scheduled(clip.tokenize("a red fox in the snow, (sunrise:1.2)"))[0][0]
    formats = {}
    for encoder in ("clip_l", "t5xxl"):
        modules = getattr(clip.cond_stage_model, encoder).modules()
        kinds = Counter(getattr(module, "quant_format", None) for module in modules)
        formats[encoder] = {kind: count for kind, count in kinds.items() if kind}
    return conditioning[:, :77], conditioning[:, 77:], formats


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).double().norm() / one.double().norm())


def main() -> None:
    checkpoints.mkdir(parents=True, exist_ok=True)
    source = checkpoints / "with-t5.safetensors"
    write_source(source)
    clip, t5, formats = encoded(source.name)
    result: dict[str, object] = {"source_formats": formats, "size": float(t5.abs().mean())}
    asked_for = set(re.findall(r'"\{\}(\w+)\.transformer\."', Path(comfy.supported_models.__file__).read_text("utf-8")))
    result["names"] = sorted(asked_for ^ set(QUANTIZED_ENCODERS))
    for choice in ("keep", "fp8", "nvfp4"):
        target = checkpoints / f"{choice}.safetensors"
        report = convert(source, target, Options(text_encoder=choice), device="cpu")
        new_clip, new_t5, formats = encoded(target.name)
        result[choice] = {
            "planned": report.plan.count("text_encoder"),
            "formats": formats,
            "clip_equal": torch.equal(clip, new_clip),
            "t5_error": difference(t5, new_t5),
            "bytes": target.stat().st_size,
        }
        target.unlink()
    source.unlink()
    answer(**result)


main()
