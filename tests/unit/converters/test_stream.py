"""One pass over a source: every byte hashed, every wanted tensor handed on, memory bounded."""

from __future__ import annotations

import hashlib
import random
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nvfp4_studio.converters import Cancelled, open_source, stream
from nvfp4_studio.converters.buffers import ALIGNMENT as PAGE
from nvfp4_studio.converters.buffers import Buffer, Buffers
from nvfp4_studio.converters.source import Source
from nvfp4_studio.converters.stream import Stream


@pytest.fixture
def file(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    tensors = {f"t{number}": torch.randn(number * 50 + 1, 7, generator=generator) for number in range(8)}
    save_file({**tensors, "empty": torch.zeros(0, 3)}, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


def _take(source: Source, wanted: dict[str, bool], limit: int = 1 << 20) -> tuple[dict[str, bytes], list[str]]:
    found: dict[str, bytearray] = {name: bytearray(source.tensors[name].nbytes) for name in wanted}
    seen = dict.fromkeys(wanted, 0)
    passing = Stream(source, wanted, Buffers(limit), lambda: None)
    for part in passing:
        size = len(part.buffer.view)
        assert size == source.tensors[part.name].nbytes or not wanted[part.name]
        found[part.name][part.first : part.first + size] = part.buffer.view
        seen[part.name] += 1
        part.buffer.release()
    assert all(seen.values())
    return {name: bytes(data) for name, data in found.items()}, passing.digests


def test_every_wanted_byte_and_the_digest_of_all(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PIECE_BYTES", 1000)
    with open_source(file) as source:
        wanted = {"t6": True, "t1": False, "t7": False, "t3": True, "empty": False}
        found, digests = _take(source, wanted)
        for name, data in found.items():
            assert data == source.read(name).reshape(-1).view(torch.uint8).numpy().tobytes()
    assert digests == [hashlib.sha256(file.read_bytes()).hexdigest()]


def test_nothing_wanted_still_gives_the_digest(file: Path) -> None:
    with open_source(file) as source:
        assert _take(source, {})[1] == [hashlib.sha256(file.read_bytes()).hexdigest()]


def test_tensors_of_a_pytorch_file_that_share_memory_or_are_transposed(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    whole = torch.arange(48.0).reshape(6, 8)
    torch.save({"a": whole, "tied": whole, "part": whole[2:4], "turned": whole.t()}, path)
    with open_source(path) as source:
        found, digests = _take(source, {"a": True, "tied": False, "part": True, "turned": True})
    assert found["a"] == found["tied"] == whole.numpy().tobytes()
    assert found["part"] == whole[2:4].numpy().tobytes()
    assert found["turned"] == whole.t().contiguous().numpy().tobytes()
    assert digests == [hashlib.sha256(path.read_bytes()).hexdigest()]


def test_memory_on_its_way_is_bounded_and_reused() -> None:
    pool = Buffers(5 * PAGE)
    first, second = pool.take(3 * PAGE, 1, lambda: None), pool.take(2 * PAGE - 1, 2, lambda: None)
    taken: list[int] = []
    thread = threading.Thread(target=lambda: taken.append(len(pool.take(3 * PAGE, 1, lambda: None).view)))
    thread.start()
    second.release()
    thread.join(0.5)
    assert not taken, "one of two users still holds the memory"
    second.release()
    thread.join(0.5)
    assert not taken, "3 and 3 are more than 5"
    first.view[:5] = b"first"
    first.release()
    thread.join(5)
    assert taken == [3 * PAGE]
    assert bytes(pool._memory[:5]) == b"first", "the memory of the first was used again"


def test_more_than_the_limit_is_given_to_a_single_user() -> None:
    pool = Buffers(10)
    large = pool.take(1000, 1, lambda: None)
    assert len(large.view) == 1000
    taken: list[int] = []
    thread = threading.Thread(target=lambda: taken.append(len(pool.take(3, 1, lambda: None).view)))
    thread.start()
    thread.join(0.3)
    assert not taken, "more than the limit is in use"
    large.release()
    thread.join(5)
    assert taken == [3]


def test_waiting_for_memory_can_be_cancelled() -> None:
    pool = Buffers(10)
    pool.take(10, 1, lambda: None)

    def cancel() -> None:
        raise Cancelled("Cancelled; nothing was written.")

    with pytest.raises(Cancelled):
        pool.take(1, 1, cancel)


def test_parts_in_use_never_touch_each_other() -> None:
    pool, draw = Buffers(40 * PAGE), random.Random(7)
    held: list[tuple[Buffer, int]] = []
    for turn in range(2000):
        while len(held) > draw.randrange(6):
            buffer, mark = held.pop(draw.randrange(len(held)))
            assert bytes(buffer.view) == bytes([mark]) * len(buffer.view)
            buffer.release()
        buffer = pool.take(draw.choice((0, 1, 700, PAGE, 5 * PAGE + 3)), 1, lambda: None)
        buffer.view[:] = bytes([turn % 251]) * len(buffer.view)
        held.append((buffer, turn % 251))
