"""`nvfp4-studio inspect`: what a checkpoint holds and how its weights are stored."""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from .text import size, table

if TYPE_CHECKING:
    from ..converters import Source
    from ..converters.layers import SourceLayer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a checkpoint: a file, an index of shards or a folder")
    parser.add_argument("--json", action="store_true", help="print everything, with every layer, as JSON")


def run(arguments: argparse.Namespace) -> int:
    from ..converters import open_source

    with open_source(arguments.file) as source:
        found = describe(source)
    if arguments.json:
        print(json.dumps(found, indent=1))
        return 0
    print(f"{found['file']}: {size(found['bytes'])}, {found['tensors']} tensors")
    prefix = f", keys begin with {found['prefix']}" if found["prefix"] else ""
    print(f"model: {found['family_title']} ({found['family']}){prefix}, default recipe {found['default_recipe']}")
    print(f"header metadata: {', '.join(found['metadata']) or 'none'}")
    for title in ("components", "dtypes"):
        rows = [(name, part["tensors"], size(part["bytes"])) for name, part in found[title].items()]
        print(f"\n{table((title, 'tensors', 'size'), rows)}")
    if found["storage"]:
        print(f"\n{table(('matrices of the diffusion model', 'layers'), list(found['storage'].items()))}")
    if found["text_encoders"]:
        encoders = [
            (name, encoder["family_title"], encoder["recipe"] or "kept", ", ".join(encoder["storage"]))
            for name, encoder in found["text_encoders"].items()
        ]
        print(f"\n{table(('text encoder', 'model', '--text-encoder', 'matrices'), encoders)}")
    return 0


def describe(source: Source) -> dict[str, Any]:
    """Everything that is told about a file, as data."""
    from ..converters import detect_family
    from ..converters.families import component, detect_encoders
    from ..converters.layers import recognise

    family = detect_family(source.tensors)
    layers = recognise(source).layers
    components: dict[str, Counter[str]] = defaultdict(Counter)
    dtypes: dict[str, Counter[str]] = defaultdict(Counter)
    for name, info in source.tensors.items():
        for group in (components[component(name, family.prefix)], dtypes[info.dtype]):
            group.update(tensors=1, bytes=info.nbytes)
    inside = [layer for layer in layers.values() if component(layer.weight, family.prefix) == "diffusion_model"]
    return {
        "file": str(source.path),
        "bytes": source.size,
        "tensors": len(source.tensors),
        "family": family.name,
        "family_title": family.title,
        "prefix": family.prefix,
        "default_recipe": family.default_recipe,
        "metadata": sorted(source.metadata),
        "components": {name: dict(counts) for name, counts in sorted(components.items())},
        "dtypes": {name: dict(counts) for name, counts in sorted(dtypes.items())},
        "storage": dict(Counter(storage(layer) for layer in inside).most_common()),
        "text_encoders": {
            prefix.rstrip("."): {
                "family": encoder.name,
                "family_title": encoder.title,
                "recipe": encoder.default_recipe,
                "storage": dict(
                    Counter(storage(layer) for layer in layers.values() if layer.name.startswith(prefix)).most_common()
                ),
            }
            for prefix, encoder in detect_encoders(source.tensors).items()
        },
        "layers": [
            {
                "name": layer.name,
                "shape": list(layer.shape),
                "format": layer.format,
                "storage": storage(layer),
                "input_scale": layer.input_scale is not None,
                "full_precision": layer.full_precision,
            }
            for layer in layers.values()
        ],
    }


def storage(layer: SourceLayer) -> str:
    """How a weight is stored, in words: "float8_e4m3fn, scaled, tagged, with input_scale"."""
    words = [layer.format]
    if layer.is_fp8:
        if layer.scale is None:
            words.append("no weight_scale" if layer.tag else "raw cast")
        elif layer.scale.endswith(".scale_weight"):
            words.append("legacy scale")
        else:
            words.append("scaled")
    if layer.tag is not None:
        words.append("tagged")
    if layer.input_scale is not None:
        words.append("with input_scale")
    if layer.full_precision:
        words.append("full-precision matmul")
    return ", ".join(words)
