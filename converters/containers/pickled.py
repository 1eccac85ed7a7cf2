"""PyTorch's own files (.pt, .pth, .ckpt, .bin): where their tensors lie, without running anything in them.

Such a file is a zip archive: a pickle that describes objects, and each storage as a stored (not
compressed) record. The pickle is read by ``torch.load(weights_only=True)``, which builds nothing but
tensors and plain containers, and under torch's fake mode, which allocates no tensor and reads no
record: what comes back are offsets. Weights are later read from there like those of a safetensors
file, with no map of the file left open.
"""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ..errors import SourceError
from .tensors import CODES, Index, TensorInfo

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
MAX_PICKLE_BYTES = 64_000_000
"""About 150 bytes describe a tensor; a description of this size is damage or an attack."""
MAX_RECORDS = 500_000
MAX_DEPTH = 8
MAX_EXPANDED_BYTES = 1 << 32
"""Of a tensor that ``expand`` made larger than what is stored of it: more than any model's largest weight."""
_NESTS = ("state_dict", "model_state_dict", "module", "model", "params_ema", "params")
"""Names under which training programs keep the weights, first match wins at each level."""
_WAY_OUT = "load it in the program that wrote it and save it as .safetensors"


def read_pytorch(path: Path) -> Index:
    """Read the index of a PyTorch file.

    Raises:
        SourceError: no PyTorch file, one of before 1.6, one that needs pickle, or one without weights.
    """
    records = _records(path)
    try:
        with warnings.catch_warnings(), FakeTensorMode():
            warnings.simplefilter("ignore")  # torch's remarks on odd files are for programmers
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except pickle.UnpicklingError as error:
        raise SourceError(
            f"{path} needs pickle, which can run any program, so it is not opened; {_WAY_OUT}."
        ) from error
    except (
        ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, NotImplementedError,
        OSError, RuntimeError, TypeError, ValueError, struct.error,
    ) as error:  # fmt: skip
        raise SourceError(f"{path} is damaged ({_first_line(error)}); download it again.") from error
    weights = _state_dict(path, loaded)
    tensors: dict[str, TensorInfo] = {}
    for name, value in weights.items():
        if isinstance(name, str) and isinstance(value, torch.Tensor):
            tensors[name] = _entry(path, name, value, records)
    return Index((path,), {}, tensors)


def _records(path: Path) -> Mapping[int, int]:
    """Start -> size of every record of the archive."""
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise SourceError(
                    f"{path} is no PyTorch file of today's form (a zip archive); files of PyTorch before 1.6 "
                    f"need pickle: {_WAY_OUT}."
                )
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
                if len(entries) > MAX_RECORDS:
                    raise SourceError(f"{path} has {len(entries)} records, too many for a checkpoint.")
                if any(entry.filename.endswith("/constants.pkl") for entry in entries):
                    raise SourceError(f"{path} is a TorchScript program, not a table of weights; {_WAY_OUT}.")
                for entry in entries:
                    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                        raise SourceError(f"{path} is compressed, which PyTorch never does; download it again.")
                    if entry.filename.endswith("data.pkl") and entry.file_size > MAX_PICKLE_BYTES:
                        raise SourceError(f"{path} describes its tensors in {entry.file_size} bytes, too many.")
                orders = [
                    archive.read(entry)
                    for entry in entries
                    if entry.filename.endswith("/byteorder") and entry.file_size < 16
                ]
            if any(order != b"little" for order in orders):
                raise SourceError(f"{path} was written on a big-endian machine; {_WAY_OUT}.")
            return {_data_start(file, entry): entry.file_size for entry in entries}
    except OSError as error:
        raise SourceError(f"{path} cannot be opened: {error.strerror or error}.") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise SourceError(f"{path} is damaged ({_first_line(error)}); download it again.") from error


def _data_start(file: Any, entry: zipfile.ZipInfo) -> int:
    """A local header is 30 bytes, then a name and an extra field whose lengths stand in it."""
    file.seek(entry.header_offset)
    head = file.read(30)
    if len(head) != 30 or head[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile("a record has no header")
    return entry.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")


def _state_dict(path: Path, loaded: Any) -> Mapping[Any, Any]:
    """The table of weights inside of whatever was saved."""
    found = loaded
    for _ in range(MAX_DEPTH):
        if not isinstance(found, dict):
            break
        nested = next((found[key] for key in _NESTS if isinstance(found.get(key), dict)), None)
        if nested is None and not any(isinstance(value, torch.Tensor) for value in found.values()):
            tables = [value for value in found.values() if _has_tensors(value)]
            nested = tables[0] if len(tables) == 1 else None
        if nested is None:
            break
        found = nested
    if not _has_tensors(found):
        what = (
            f"a table with {', '.join(map(repr, list(found)[:5]))}" if isinstance(found, dict) else type(found).__name__
        )
        raise SourceError(f"{path} holds no table of weights (found {what[:200]}); save the model's state_dict alone.")
    return found  # type: ignore[no-any-return]


def _has_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(inner, torch.Tensor) for inner in value.values())


def _entry(path: Path, name: str, tensor: torch.Tensor, records: Mapping[int, int]) -> TensorInfo:
    """Where a tensor lies, checked against the archive's records."""
    if not name.isprintable():
        raise SourceError(f"{path} names a tensor {name[:80]!r}, which cannot be shown; the file is damaged.")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.dtype not in CODES:
        raise SourceError(f"{path}: tensor {name[:200]} is {tensor.dtype} {tensor.layout}, unknown to nvfp4-studio.")
    start = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    size = tensor.dtype.itemsize
    shape, strides = tuple(map(int, tensor.shape)), tuple(map(int, tensor.stride()))
    nbytes = int(tensor.numel()) * size
    first = int(tensor.storage_offset()) * size
    extent = size * (1 + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))) if nbytes else 0
    if not isinstance(start, int) or start not in records or first < 0 or first + extent > records[start]:
        raise SourceError(f"{path}: tensor {name[:200]} reaches beyond the bytes stored for it; the file is damaged.")
    if nbytes > max(records[start], MAX_EXPANDED_BYTES):
        raise SourceError(
            f"{path}: tensor {name[:200]} of shape {list(shape)[:8]} repeats {extent} stored bytes to {nbytes}, "
            f"more than the {MAX_EXPANDED_BYTES} that are read; {_WAY_OUT}."
        )
    plain = tensor.is_contiguous() or not nbytes
    return TensorInfo(name, CODES[tensor.dtype], shape, start + first, nbytes, strides=None if plain else strides)


def _first_line(error: BaseException) -> str:
    """What a library said, short and without signs that would do something to a terminal."""
    text = (str(error).splitlines() or [""])[0][:200]
    return "".join(sign if sign.isprintable() else "?" for sign in text) or type(error).__name__
