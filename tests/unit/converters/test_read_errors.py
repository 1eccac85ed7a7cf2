"""A disk that gives an error in the middle: one sentence, nothing left behind, and the source is not touched."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nvfp4_studio.converters import SourceError, convert, source
from nvfp4_studio.converters.source import Source

Checkpoint = Callable[..., Path]


class BadSector(io.FileIO):
    """A file one byte of which cannot be read."""

    def __init__(self, path: str, place: int):
        super().__init__(path)
        self.place = place

    def readinto(self, buffer: object) -> int:
        start = self.tell()
        if start <= self.place < start + memoryview(buffer).nbytes:  # type: ignore[arg-type]
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().readinto(buffer)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.35, 0.6, 0.85, 1.0])
@pytest.mark.parametrize("kind", ["scaled", "bf16"])
def test_a_read_error_at_any_place(
    kind: str, share: float, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoint(kind)
    before = path.read_bytes()
    place = round(share * (len(before) - 1))
    opened = Source.__init__

    def with_bad_sector(self: Source, name: Path, index: object) -> None:
        opened(self, name, index)  # type: ignore[arg-type]
        if name == path:
            self._open[0].close()
            self._open[0] = BadSector(str(path), place)  # type: ignore[call-overload]

    monkeypatch.setattr(source.Source, "__init__", with_bad_sector)
    target = tmp_path / "out" / "out.safetensors"
    target.parent.mkdir()
    with pytest.raises(SourceError, match=r"cannot be read at byte \d+ .*check the disk or copy it"):
        convert(path, target)
    assert list(target.parent.iterdir()) == []
    assert path.read_bytes() == before


def test_a_source_that_becomes_shorter_meanwhile(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = checkpoint("bf16")
    target = tmp_path / "out" / "out.safetensors"
    target.parent.mkdir()

    def cut(done: int, total: int, label: str) -> None:
        os.truncate(path, 5000)

    with pytest.raises(SourceError, match="it changed while it was read"):
        convert(path, target, progress=cut)
    assert list(target.parent.iterdir()) == []
