"""A checkpoint opened for reading, in whatever container it comes.

One safetensors file, shards of one model, a diffusers folder and PyTorch's own files are all read into
the same index of byte ranges (``tensors.Index``); from there on they are the same thing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TypeVar, cast

import torch

from .containers.header import MAX_HEADER_BYTES, read_header
from .containers.pickled import SUFFIXES as PYTORCH_SUFFIXES
from .containers.pickled import read_pytorch
from .containers.shards import INDEX_SUFFIXES, is_diffusers, is_shard, read_folder, read_shard_index, read_shards_of
from .containers.tensors import CODES, DTYPES, Index, TensorInfo
from .errors import SourceError

__all__ = ["CODES", "DTYPES", "MAX_HEADER_BYTES", "Source", "TensorInfo", "open_source"]
Known = TypeVar("Known")


class Source:
    """A checkpoint opened for reading. Use as a context manager; only the index is kept in memory.

    ``path`` is what the user named, ``files`` what is read, ``size`` the bytes of all of them and
    ``diffusers`` says that the files belong to a diffusers model. Reading is safe from several
    threads at once.
    """

    def __init__(self, path: Path, index: Index):
        """Open every file of an index; raises SourceError when one cannot be opened."""
        self.path = path
        self.files = index.files
        self.metadata = index.metadata
        self.tensors = index.tensors
        self.diffusers = is_diffusers(index.files[0].parent)
        self._remembered = index.remembered
        self._open: list[BinaryIO] = []
        self._locks = [threading.Lock() for _ in index.files]
        try:
            for part in index.files:
                self._open.append(part.open("rb"))
        except OSError as error:
            self.close()
            raise SourceError(f"{error.filename} cannot be opened: {error.strerror}.") from error
        self.size = sum(os.fstat(file.fileno()).st_size for file in self._open)

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for file in self._open:
            file.close()

    def stamp(self) -> list[tuple[str, int, int, int, int]]:
        """Path, size, number and both times of change in ns of every file: equal for a source that nobody touched.

        The time of change that copying tools can set back is not enough: the other one they cannot.
        """
        found = ((part.resolve(), os.fstat(file.fileno())) for part, file in zip(self.files, self._open, strict=True))
        return [(str(part), stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns) for part, stat in found]

    def remembered(self, what: Hashable, read: Callable[[], Known]) -> Known:
        """What ``read`` gives, called only the first time that ``what`` is asked for of this index.

        For what planning reads of the files again and again: tags, samples of weights. Nothing large, for it is kept.
        """
        if what not in self._remembered:
            self._remembered[what] = read()
        return cast(Known, self._remembered[what])

    def read(self, name: str) -> torch.Tensor:
        """Return the tensor on the CPU, with a buffer of its own."""
        info = self.tensors[name]
        if info.nbytes == 0:
            return torch.empty(info.shape, dtype=info.torch_dtype)
        if info.strides is None:
            data = self._read(info, 0, info.nbytes)
            return torch.frombuffer(data, dtype=info.torch_dtype).reshape(info.shape)
        extent = 1 + sum((side - 1) * stride for side, stride in zip(info.shape, info.strides, strict=True))
        data = self._read(info, 0, extent * info.torch_dtype.itemsize)
        # Through integers: torch copies strided tensors of every integer type, but not of every FP8 type.
        bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[info.torch_dtype.itemsize]
        rows = torch.frombuffer(data, dtype=bits).as_strided(info.shape, info.strides).contiguous()
        return rows.view(info.torch_dtype)

    def read_rows(self, name: str, first: int, last: int) -> torch.Tensor:
        """Return rows ``first`` to ``last`` (exclusive) of a tensor with at least one dimension."""
        info = self.tensors[name]
        if info.strides is not None:
            return self.read(name)[first:last]
        rows = last - first
        row_bytes = info.nbytes // info.shape[0]
        if rows * row_bytes == 0:
            return torch.empty((rows, *info.shape[1:]), dtype=info.torch_dtype)
        data = self._read(info, first * row_bytes, rows * row_bytes)
        return torch.frombuffer(data, dtype=info.torch_dtype).reshape(rows, *info.shape[1:])

    def chunks(self, name: str, size: int = 1 << 24) -> Iterator[bytearray]:
        """Yield the tensor's bytes in pieces of at most ``size`` bytes."""
        info = self.tensors[name]
        whole = None
        if info.strides is not None and info.nbytes:
            whole = self.read(name).reshape(-1).view(torch.uint8).numpy()
        for offset in range(0, info.nbytes, size):
            if whole is not None:
                yield bytearray(whole[offset : offset + size].tobytes())
            else:
                yield self._read(info, offset, min(size, info.nbytes - offset))

    def file_size(self, number: int) -> int:
        """Bytes of file ``number`` as they are now."""
        return os.fstat(self._open[number].fileno()).st_size

    def read_into(self, number: int, start: int, view: memoryview) -> None:
        """Fill ``view`` with bytes of file ``number`` from byte ``start`` on.

        Raises:
            SourceError: the disk does not give them, or the file has become shorter.
        """
        path, file = self.files[number], self._open[number]
        try:
            with self._locks[number]:
                file.seek(start)
                got = file.readinto(view)  # type: ignore[attr-defined]
        except OSError as error:
            raise SourceError(f"{path} cannot be read at byte {start} ({error}); check the disk or copy it.") from error
        if got != len(view):
            raise SourceError(
                f"{path} ended at byte {start + (got or 0)} while {start + len(view)} were announced: "
                "it changed while it was read; start again when no other program writes to it."
            )

    def _read(self, info: TensorInfo, offset: int, count: int) -> bytearray:
        data = bytearray(count)
        self.read_into(info.file, info.start + offset, memoryview(data))
        return data


def open_source(path: str | os.PathLike[str]) -> Source:
    """Open a checkpoint and check its whole index before any tensor is read.

    Args:
        path: a .safetensors file (the suffix does not matter), a ``*.safetensors.index.json`` or
            ``*.bin.index.json``, one of a model's numbered shards, a folder that holds one model
            (shards with or without index, or diffusers' ``transformer`` folder), or a .pt, .pth,
            .ckpt or .bin file of PyTorch.

    Raises:
        SourceError: not one of these, truncated, malformed, incomplete, or in need of pickle.
    """
    path = Path(path)
    if "\0" in str(path):
        raise SourceError(
            f"The path {str(path)!r} holds a NUL character, which no file's name can; choose another source."
        )
    if path.is_dir():
        path = path.resolve()  # a folder may be called "."; plan and report want its name
        index = read_folder(path)
    elif path.name.endswith(INDEX_SUFFIXES):
        index = read_shard_index(path)
    elif is_shard(path) and path.is_file():
        index = read_shards_of(path)
    elif path.suffix.lower() in PYTORCH_SUFFIXES:
        index = read_pytorch(path)
    else:
        index = read_header(path)
    return Source(path, index)
