"""Nodes with which stock ComfyUI runs the demo model: a text becomes a digit's conditioning, a latent a picture.

ComfyUI's tests load this file as a custom node; nothing of the pack is imported but the demo's two formulas.
"""

from __future__ import annotations

import importlib.util
import re
import zlib
from pathlib import Path
from typing import Any

import torch

DEMO = Path(__file__).resolve().parents[3] / "demo"


def formulas(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"digits_{name}", DEMO / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


conditioning, data = formulas("conditioning"), formulas("data")


class DigitsTextEncode:
    """The first digit of the text, or one that follows from the text."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("CONDITIONING",), "encode", "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"text": ("STRING", {"default": "7"})}}

    def encode(self, text: str) -> tuple[Any]:
        if "fail" in text:
            raise ValueError("this text fails")
        found = re.search(r"\d", text)
        digit = int(found[0]) if found else zlib.crc32(text.encode()) % 10
        context, pooled = conditioning.class_conditioning([digit])
        return ([[context, {"pooled_output": pooled}]],)


class DigitsDecode:
    """ComfyUI's latents of Flux -> pictures [B, 32, 32, 3], ink on paper."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "decode", "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"samples": ("LATENT",)}}

    def decode(self, samples: dict[str, Any]) -> tuple[torch.Tensor]:
        ink = data.unfold(data.from_comfy(samples["samples"]))
        return ((1.0 - ink)[..., None].expand(-1, -1, -1, 3).contiguous(),)


class DigitsVAE:
    """The same as a VAE for nodes that ask for one, with colours."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("VAE",), "load", "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def load(self) -> tuple[Any]:
        return (self,)

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        ink = data.unfold(data.from_comfy(samples))
        return 1.0 - ink[..., None] * torch.tensor([1.0, 0.8, 0.6])


NODE_CLASS_MAPPINGS = {"DigitsTextEncode": DigitsTextEncode, "DigitsDecode": DigitsDecode, "DigitsVAE": DigitsVAE}
