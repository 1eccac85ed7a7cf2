"""Where each tensor of a checkpoint lies: the index that every container is read into, whatever its form."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}
CODES: Mapping[torch.dtype, str] = {dtype: code for code, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a checkpoint.

    ``start`` is the offset of its first byte in file number ``file`` of the index. ``nbytes`` is the
    size of its values. ``strides`` is None for values in row order, which every safetensors file has;
    a PyTorch file may hold a transposed tensor, whose strides then count elements as torch does.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int
    file: int = 0
    strides: tuple[int, ...] | None = None

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def count(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Index:
    """All tensors of a checkpoint, the files that hold them, and the texts of its header.

    ``remembered``: see ``Source.remembered``; whoever keeps an index for longer than the files stay the same is to drop it.
    """

    files: tuple[Path, ...]
    metadata: dict[str, str]
    tensors: dict[str, TensorInfo]
    remembered: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)
