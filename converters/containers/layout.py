"""Where each tensor of a safetensors file to be will lie, known before the first byte is written."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from ..errors import ConversionError
from .tensors import CODES


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that will be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def lay_out(
    specs: Iterable[TensorSpec], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, tuple[int, TensorSpec]]]:
    """Return the file's first bytes and each tensor's absolute offset.

    Wider dtypes come first and the header is padded to 8 bytes, so that every tensor is aligned to
    its element size, which readers that map the file rely on. Names order the rest: the layout does
    not depend on the order of declaration.

    Raises:
        ConversionError: two tensors of one name.
    """
    ordered = sorted(specs, key=lambda spec: (-spec.dtype.itemsize, spec.name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    position = 0
    places: dict[str, tuple[int, TensorSpec]] = {}
    for spec in ordered:
        if spec.name in places:
            raise ConversionError(f"Two tensors called {spec.name} would be written; please report this.")
        places[spec.name] = (position, spec)
        end = position + spec.nbytes
        header[spec.name] = {"dtype": CODES[spec.dtype], "shape": list(spec.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {
        name: (start + offset, spec) for name, (offset, spec) in places.items()
    }
