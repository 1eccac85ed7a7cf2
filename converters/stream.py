"""Read a source once, from front to back: every byte is hashed, every tensor that is wanted is handed on.

One pass is what a disk likes best, and the SHA-256 of the source costs no reading of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from .buffers import Buffer, Buffers
from .containers.tensors import TensorInfo
from .memory import memory_for
from .source import Source

PIECE_BYTES = 8 << 20
"""Read at once of what is only copied or hashed."""


@dataclass(frozen=True)
class Part:
    """Bytes ``first`` and following of tensor ``name``; ``buffer`` is released by whoever takes the part."""

    name: str
    first: int
    buffer: Buffer


class Stream:
    """One pass over the files of a source.

    ``digests`` are hexadecimal SHA-256, one a file, once the parts have been taken to the last.
    """

    def __init__(self, source: Source, wanted: Mapping[str, bool], buffers: Buffers, check: Callable[[], None]):
        """Nothing is read yet.

        Args:
            source: an open checkpoint.
            wanted: names of tensors; True for those that are needed whole, in one part.
            buffers: memory for what is on its way.
            check: called before every piece; may raise to cancel.
        """
        self._source = source
        self._wanted = wanted
        self._buffers = buffers
        self._check = check
        self.digests: list[str] = []

    def __iter__(self) -> Iterator[Part]:
        with ThreadPoolExecutor(1, thread_name_prefix="nvfp4-studio-hash") as thread:
            for number in range(len(self._source.files)):
                digest = hashlib.sha256()
                last: Future[None] | None = None
                for name, start, size in self._regions(number):
                    with memory_for(name or self._source.files[number].name):
                        buffer = self._buffers.take(size, 1 if name is None else 2, self._check)
                        self._source.read_into(number, start, buffer.view)
                    last = thread.submit(_update, digest, buffer)
                    if name is not None:
                        yield Part(name, start - self._source.tensors[name].start, buffer)
                if last is not None:
                    last.result()
                self.digests.append(digest.hexdigest())
                yield from self._out_of_order(number)

    def _in_order(self, number: int) -> list[TensorInfo]:
        """Wanted tensors of a file that lie one behind the other, in that order."""
        infos = (self._source.tensors[name] for name in self._wanted)
        found, end = [], 0
        for info in sorted((info for info in infos if info.file == number), key=lambda info: info.start):
            if info.start >= end and info.strides is None and info.nbytes:
                found.append(info)
                end = info.start + info.nbytes
        return found

    def _regions(self, number: int) -> Iterator[tuple[str | None, int, int]]:
        """The whole file as (tensor or None, first byte, bytes)."""
        position = 0
        for info in self._in_order(number):
            yield from _pieces(None, position, info.start)
            position = info.start + info.nbytes
            if self._wanted[info.name]:
                yield info.name, info.start, info.nbytes
            else:
                yield from _pieces(info.name, info.start, position)
        yield from _pieces(None, position, self._source.file_size(number))

    def _out_of_order(self, number: int) -> Iterator[Part]:
        """Tensors of a PyTorch file that share memory or are transposed, and those without a byte."""
        passed = {info.name for info in self._in_order(number)}
        for name in self._wanted:
            info = self._source.tensors[name]
            if info.file == number and name not in passed:
                with memory_for(name):
                    buffer = self._buffers.take(info.nbytes, 1, self._check)
                    values = self._source.read(name).contiguous().reshape(-1).view(torch.uint8)
                    buffer.view[:] = values.numpy().data
                yield Part(name, 0, buffer)


def _pieces(name: str | None, start: int, end: int) -> Iterator[tuple[str | None, int, int]]:
    for first in range(start, end, PIECE_BYTES):
        yield name, first, min(PIECE_BYTES, end - first)


def _update(digest: hashlib._Hash, buffer: Buffer) -> None:
    try:
        digest.update(buffer.view)
    finally:
        buffer.release()
