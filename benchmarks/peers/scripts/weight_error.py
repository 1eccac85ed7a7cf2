"""Weight error of a converted file, decoded with comfy-kitchen, the library that ComfyUI itself decodes with.

    python weight_error.py SOURCE TARGET

Prints JSON. The source's own scales are applied, so for a scaled-FP8 source the truth is weight times scale.
`gain` is ⟨truth, decoded⟩ / ⟨decoded, decoded⟩ over all layers: 1 when the scale is right.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter

import comfy_kitchen
import torch
from safetensors import safe_open

LAYERS = "transformer_blocks."
FP8 = {torch.float8_e4m3fn, torch.float8_e5m2}
NVFP4 = "nvfp4"
PLAIN = "plain"


class File:
    """A safetensors file and the formats that it declares for its layers, in the header or in tags.

    Where they disagree the header counts, as in ComfyUI.
    """

    def __init__(self, path: str):
        self.tensors = safe_open(path, framework="pt")
        self.names = set(self.tensors.keys())
        header = json.loads((self.tensors.metadata() or {}).get("_quantization_metadata", "{}"))
        self.formats = {layer: entry["format"] for layer, entry in header.get("layers", {}).items()}
        self.tagged = {name.removesuffix(".comfy_quant") for name in self.names if name.endswith(".comfy_quant")}
        self.declared_by = [way for way, used in (("header", self.formats), ("tags", self.tagged)) if used]
        for layer in self.tagged - self.formats.keys():
            tag = self.get(f"{layer}.comfy_quant")
            if tag.dtype != torch.uint8:
                sys.exit(f"comfy_quant tags are {tag.dtype}, not uint8")
            self.formats[layer] = json.loads(bytes(tag.tolist()))["format"]

    def get(self, name: str) -> torch.Tensor:
        return self.tensors.get_tensor(name)

    def format_of(self, layer: str) -> str:
        """The declared format; what the dtype says where none is declared."""
        stored = str(self.tensors.get_slice(f"{layer}.weight").get_dtype())
        return self.formats.get(layer, PLAIN if stored in ("BF16", "F16", "F32") else f"undeclared {stored}")

    def decode(self, layer: str, shape: torch.Size | None = None) -> torch.Tensor:
        """The weight as float32, by the declared format; NVFP4's padding is cut off at ``shape``."""
        weight = self.get(f"{layer}.weight")
        if self.format_of(layer) == NVFP4:
            scales = self.get(f"{layer}.weight_scale").view(torch.float8_e4m3fn)
            tensor_scale = self.get(f"{layer}.weight_scale_2").float().reshape(())
            decoded = comfy_kitchen.dequantize_nvfp4(weight, tensor_scale, scales, output_type=torch.float32)
            return decoded if shape is None else decoded[: shape[0], : shape[1]]
        if weight.dtype == torch.uint8:
            sys.exit(f"packed 4-bit weights are declared as {self.format_of(layer)}")
        scaled = weight.dtype in FP8 and f"{layer}.weight_scale" in self.names
        return weight.float() * self.get(f"{layer}.weight_scale").float() if scaled else weight.float()


def main() -> None:
    torch.set_num_threads(1)
    source, target = File(sys.argv[1]), File(sys.argv[2])
    layers = sorted(
        name.removesuffix(".weight")
        for name in source.names
        if name.startswith(LAYERS) and name.endswith(".weight") and len(source.tensors.get_slice(name).get_shape()) == 2
    )
    signal = noise = both = decoded_power = 0.0
    formats: Counter[str] = Counter()
    for layer in layers:
        formats[target.format_of(layer)] += 1
        truth = source.decode(layer)
        decoded = target.decode(layer, truth.shape)
        signal += float(truth.square().sum(dtype=torch.float64))
        noise += float((truth - decoded).square().sum(dtype=torch.float64))
        both += float((truth * decoded).sum(dtype=torch.float64))
        decoded_power += float(decoded.square().sum(dtype=torch.float64))
    answer = {
        "layers": len(layers),
        "formats": dict(formats),
        "declared_by": target.declared_by,
        "sqnr_db": None if noise == 0 else 10 * math.log10(signal / noise),
        "gain": both / decoded_power if decoded_power else None,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
