"""Killed at any moment: the target is absent or complete, the source untouched, and the next run goes on.

``NVFP4_STUDIO_KILLS=50 pytest tests/unit/converters/test_resume.py`` is the long run.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nvfp4_studio.converters import ConversionError, Options, convert, verify, writer
from nvfp4_studio.converters.planning.decide import make_plan
from nvfp4_studio.converters.source import open_source
from nvfp4_studio.converters.writing import syncing
from nvfp4_studio.converters.writing import target as target_module
from nvfp4_studio.converters.writing.journal import Journal
from nvfp4_studio.converters.writing.written import Written

Checkpoint = Callable[..., Path]
KILLS = int(os.environ.get("NVFP4_STUDIO_KILLS", "6"))

CHILD = """
import sys
from nvfp4_studio.converters import Options, convert
from nvfp4_studio.converters.writing import syncing
syncing.SYNC_BYTES = 1 << 20
print("ready", flush=True)
convert(sys.argv[1], sys.argv[2], Options(recipe="weight-only"), progress=lambda done, total, label: print(label, flush=True))
"""


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """48 layers of 1024×1024 in BF16: about 100 MB, a conversion of one to two seconds."""
    generator = torch.Generator().manual_seed(3)
    weights = {
        f"blocks.{index}.mlp.weight": torch.randn(1024, 1024, generator=generator).bfloat16() for index in range(48)
    }
    save_file(weights, tmp_path / "large.safetensors")
    return tmp_path / "large.safetensors"


def test_kills_at_random_moments(large: Path, tmp_path: Path) -> None:
    uninterrupted = tmp_path / "whole" / "out.safetensors"
    uninterrupted.parent.mkdir()
    started = time.monotonic()
    report = convert(large, uninterrupted, Options(recipe="weight-only"))
    duration = time.monotonic() - started
    source_digest, wanted = _digest(large), _digest(uninterrupted)
    folder = tmp_path / "killed"
    folder.mkdir()
    target = folder / "out.safetensors"
    chance = random.Random(11)
    resumed = 0
    for _ in range(KILLS):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(large), str(target)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0, duration * 1.3))
        child.kill()
        child.communicate()
        assert _digest(large) == source_digest
        if target.exists():
            assert _digest(target) == wanted
            target.unlink()
        elif (folder / ".out.safetensors.journal").exists():
            resumed += (folder / ".out.safetensors.journal").read_bytes().count(b"\n") > 2
    final = convert(large, target, Options(recipe="weight-only"))
    assert _digest(target) == wanted
    assert final.verification.problems == () and len(final.plan.layers) == len(report.plan.layers)
    assert sorted(path.name for path in folder.iterdir()) == ["out.safetensors"]
    assert resumed > 0, "no kill fell into the writing: nothing was resumed"


def test_a_resumed_run_writes_only_what_is_missing(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state that a kill leaves is made by copying it away before the end."""
    monkeypatch.setattr(syncing, "SYNC_BYTES", 1)
    source, target = checkpoint("scaled"), tmp_path / "out.safetensors"
    saved: dict[str, bytes] = {}

    def snapshot(done: int, total: int, label: str) -> None:
        if label == "writing to disk":
            saved.update({path.name: path.read_bytes() for path in tmp_path.glob(".out*")})

    convert(source, target, progress=snapshot)
    wanted = _digest(target)
    target.unlink()
    assert saved.keys() == {".out.safetensors.part", ".out.safetensors.journal"}
    for name, data in saved.items():
        (tmp_path / name).write_bytes(data)
    on_disk = Journal(
        tmp_path / ".out.safetensors.journal", json.loads(saved[".out.safetensors.journal"].split(b"\n")[0])
    )
    done = set(on_disk.resume())
    written: list[str] = []
    original = writer.Writer.write_piece

    def recorded(self: writer.Writer, name: str, first: int, data: memoryview) -> None:
        written.append(name)
        original(self, name, first, data)

    monkeypatch.setattr(writer.Writer, "write_piece", recorded)
    report = convert(source, target)
    assert _digest(target) == wanted and verify(source, target).problems == ()
    weights = {name for name in done if name.endswith("weight") and name in {spec.name for spec in report.plan.specs()}}
    assert weights, "nothing was on disk when the state was copied"
    finished = {layer.name for layer in report.plan.layers if done.issuperset(spec.name for spec in layer.outputs)}
    assert finished and not {name.rpartition(".")[0] for name in written} & finished
    assert {error.name for error in report.verification.layers} == {
        layer.name for layer in report.plan.layers if layer.tag is not None
    }


@pytest.mark.parametrize("change", ["options", "source"])
def test_what_another_conversion_left_is_not_used(
    change: str, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncing, "SYNC_BYTES", 1)
    source, target = checkpoint("scaled"), tmp_path / "out.safetensors"
    saved: dict[str, bytes] = {}
    convert(
        source,
        target,
        progress=lambda *_: saved.update({path.name: path.read_bytes() for path in tmp_path.glob(".out*")}),
    )
    target.unlink()
    options = Options()
    if change == "options":
        options = Options(rounding="nearest")
    else:
        os.utime(source, ns=(1, 1))
    convert(source, tmp_path / "fresh.safetensors", options)
    for name, data in saved.items():
        (tmp_path / name).write_bytes(data)
    convert(source, target, options)
    assert _digest(target) == _digest(tmp_path / "fresh.safetensors")
    assert not list(tmp_path.glob(".out*"))


def test_two_conversions_to_one_target(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source, target = checkpoint("scaled"), tmp_path / "out.safetensors"
    refused: list[str] = []

    def second(done: int, total: int, label: str) -> None:
        if not refused:
            with pytest.raises(ConversionError, match="Another conversion is writing") as error:
                convert(source, target)
            refused.append(str(error.value))

    convert(source, target, progress=second)
    assert refused and verify(source, target).problems == ()


DAMAGED = [
    b"", b"\n", b"\xff\xfe\n", b'"other"\n{"a": [[0, 1, 2]]}\n', b'"mine"\n{"a": 1}\n', b'"mine"\n{"a": [[0, -1, 2]]}\n',
    b'"mine"\n["a"]\n', b'"mine"\n{"a": [[0, 1, 2]]}', b'{"a": []}\n["b"]\n',
]  # fmt: skip


@pytest.mark.parametrize("data", DAMAGED)
def test_a_damaged_journal_means_a_fresh_start(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(data)
    assert Journal(tmp_path / "j", "mine").resume() == {}


def _killed(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, at_the_end: bool = False) -> bytes:
    """Leave what a kill leaves when everything is on disk but nothing renamed; return the finished file's bytes."""
    monkeypatch.setattr(syncing, "SYNC_BYTES", 1)
    saved: dict[str, bytes] = {}

    def snapshot() -> None:
        saved.update({path.name: path.read_bytes() for path in target.parent.glob(".out*")})

    commit = writer.Writer.commit
    with monkeypatch.context() as patched:
        if at_the_end:
            patched.setattr(writer.Writer, "commit", lambda self: (snapshot(), commit(self))[1])
        convert(source, target, progress=lambda _, __, label: snapshot() if label == "writing to disk" else None)
    whole = target.read_bytes()
    target.unlink()
    for name, data in saved.items():
        (target.parent / name).write_bytes(data)
    return whole


def test_what_was_damaged_since_the_kill_is_done_again(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = checkpoint("scaled"), tmp_path / "out.safetensors"
    whole = _killed(source, target, monkeypatch)
    part = tmp_path / ".out.safetensors.part"
    data = bytearray(part.read_bytes())
    for place in range(len(data) // 3, len(data), len(data) // 7):
        data[place] ^= 0xFF
    part.write_bytes(data)
    convert(source, target)
    assert target.read_bytes() == whole


def test_a_run_killed_just_before_the_renaming_is_not_lost(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the header holds the digests already, and differs from the one that a run begins with."""
    source, target = checkpoint("scaled"), tmp_path / "out.safetensors"
    whole = _killed(source, target, monkeypatch, at_the_end=True)
    written: list[str] = []
    original = writer.Writer.write_piece
    monkeypatch.setattr(
        writer.Writer,
        "write_piece",
        lambda self, name, first, data: (written.append(name), original(self, name, first, data))[1],
    )
    shares: list[float] = []
    convert(source, target, progress=lambda done, total, _: shares.append(done / total))
    assert target.read_bytes() == whole and len(written) < 10
    assert max(shares) <= 1


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_verified_file_that_cannot_be_named_is_kept(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    """As on Windows while another program has the file open."""
    source, target = checkpoint("scaled"), tmp_path / "out.safetensors"
    if overwrite:
        target.write_bytes(b"old")
    options = Options(recipe="weight-only", rounding="nearest")

    def refuse(*names: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(target_module.os, "replace" if overwrite else "link", refuse)
        with pytest.raises(
            ConversionError, match=r"cannot be named .*Permission denied\); it is kept, and the same conver"
        ):
            convert(source, target, options, overwrite=overwrite)
    kept = target_module.temporary_names(target)
    assert target.exists() == overwrite and all(path.exists() for path in kept)
    monkeypatch.setattr(Written, "add", lambda *_: pytest.fail("something was written again"))
    convert(source, target, options, overwrite=overwrite)
    assert load_file(target) and not any(path.exists() for path in kept)


def test_a_killed_run_and_a_source_that_only_pretends_to_be_the_same(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copying tools can set size and time of change to those of before."""
    source, target = checkpoint("bf16"), tmp_path / "out.safetensors"
    _killed(source, target, monkeypatch)
    stat, data = source.stat(), bytearray(source.read_bytes())
    data[-2000:] = bytes(2000)
    source.write_bytes(data)
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    convert(source, target)
    convert(source, tmp_path / "fresh.safetensors")
    assert _digest(target) == _digest(tmp_path / "fresh.safetensors")


def test_a_journal_of_a_fresh_start_never_names_what_is_not_there(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the new journal and the new file: the journal is empty before the file is."""
    source, target = checkpoint("scaled"), tmp_path / "out.safetensors"
    _killed(source, target, monkeypatch)
    part = tmp_path / ".out.safetensors.part"
    part.write_bytes(part.read_bytes()[:-1])  # of another size: nothing of it can be used
    seen: list[bytes] = []
    started = Journal.start

    def start(self: Journal, done: object) -> None:
        started(self, done)  # type: ignore[arg-type]
        seen.append(part.read_bytes())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "start", start)
    with pytest.raises(ConversionError, match="is full"):
        convert(source, target)
    assert seen and len(seen[0]) > 1000, "the file was emptied before the journal"


def test_too_little_space_leaves_the_work_of_a_killed_run(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = checkpoint("scaled"), tmp_path / "out.safetensors"
    whole = _killed(source, target, monkeypatch)
    monkeypatch.setattr(target_module, "SPACE_RESERVE", 1 << 60)
    with pytest.raises(ConversionError, match="make room"):
        convert(source, target)
    assert sorted(path.name for path in tmp_path.glob(".out*")) == [".out.safetensors.journal", ".out.safetensors.part"]
    monkeypatch.setattr(target_module, "SPACE_RESERVE", 1)
    convert(source, target)
    assert target.read_bytes() == whole


def test_a_run_on_another_kind_of_device_starts_anew(checkpoint: Checkpoint) -> None:
    """It may round otherwise, and a layer that was written in part would be of both."""
    convert_module = sys.modules[convert.__module__]
    with open_source(checkpoint("scaled")) as source:
        plan = make_plan(source, Options())
        found = {convert_module._fingerprint(source, plan, None, torch.device(kind)) for kind in ("cpu", "cuda", "cpu")}
    assert len(found) == 2
