"""The streaming writer: readable by the library, aligned, atomic, and clean after every failure."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nvfp4_studio.converters import Options, buffers, convert, execute
from nvfp4_studio.converters import writer as writer_module
from nvfp4_studio.converters.containers.layout import TensorSpec, lay_out
from nvfp4_studio.converters.errors import ConversionError, SourceError, VerificationError
from nvfp4_studio.converters.writer import Writer
from nvfp4_studio.converters.writing import syncing
from nvfp4_studio.converters.writing import target as target_module
from nvfp4_studio.converters.writing.target import temporary_names

SPECS = [
    TensorSpec("a", torch.uint8, (3, 5)),
    TensorSpec("b", torch.float32, ()),
    TensorSpec("c", torch.float8_e4m3fn, (7,)),
    TensorSpec("d", torch.bfloat16, (2, 3)),
    TensorSpec("e", torch.float32, (0, 4)),
    TensorSpec("f", torch.float64, (2,)),
]
TENSORS = {spec.name: torch.arange(max(1, spec.nbytes // spec.dtype.itemsize))[: torch.Size(spec.shape).numel()].to(spec.dtype).reshape(spec.shape) for spec in SPECS}  # fmt: skip


def _write(path: Path, overwrite: bool = False) -> None:
    with Writer(path, SPECS, {"k": "v"}, overwrite=overwrite) as writer:
        for name in reversed(TENSORS):
            writer.write(name, TENSORS[name])
        writer.finish()
        writer.commit()


def test_the_library_reads_what_was_written_in_any_order(tmp_path: Path) -> None:
    _write(tmp_path / "x.safetensors")
    read = load_file(tmp_path / "x.safetensors")
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name].float(), tensor.float())


def test_a_finished_file_is_whole_for_other_readers_where_the_system_writes_at_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pwrite", "pread"):  # as on Windows
        monkeypatch.delattr(os, name, raising=False)
    with Writer(tmp_path / "x.safetensors", SPECS, {}, overwrite=False) as writer:
        for name, tensor in TENSORS.items():
            writer.write(name, tensor)
        read = load_file(writer.finish())
        assert all(torch.equal(read[name].float(), tensor.float()) for name, tensor in TENSORS.items())


def test_every_tensor_is_aligned_to_its_elements(tmp_path: Path) -> None:
    head, places = lay_out(SPECS, {"odd": "metadata of odd length"})
    assert len(head) % 8 == 0
    assert all(offset % spec.dtype.itemsize == 0 for offset, spec in places.values())
    assert json.loads(head[8:])["__metadata__"] == {"odd": "metadata of odd length"}


def test_the_layout_does_not_depend_on_the_order_of_declaration() -> None:
    assert lay_out(SPECS, {"a": "1", "b": "2"}) == lay_out(reversed(SPECS), {"b": "2", "a": "1"})


def test_two_tensors_of_one_name_are_refused() -> None:
    with pytest.raises(ConversionError, match="Two tensors called a would be written; please report this"):
        lay_out([*SPECS, TensorSpec("a", torch.float32, (2,))], {})


def test_the_target_appears_only_at_commit(tmp_path: Path) -> None:
    target = tmp_path / "x.safetensors"
    with Writer(target, SPECS, {}, overwrite=False) as writer:
        for name, tensor in TENSORS.items():
            writer.write(name, tensor)
        temporary = writer.finish()
        assert not target.exists() and temporary.parent == tmp_path
        assert load_file(temporary).keys() == TENSORS.keys()
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_appeared_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "x.safetensors"
    with Writer(target, SPECS, {}, overwrite=False) as writer:
        for name, tensor in TENSORS.items():
            writer.write(name, tensor)
        writer.finish()
        target.write_text("somebody else's")
        with pytest.raises(ConversionError, match="exists already"):
            writer.commit()
    assert target.read_text() == "somebody else's" and len(list(tmp_path.iterdir())) == 1


def test_a_target_that_appears_at_the_last_moment_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "x.safetensors"
    check = target_module.check_target

    def and_then_somebody_writes(path: Path, overwrite: bool) -> None:
        check(path, overwrite)
        target.write_text("somebody else's")

    with Writer(target, SPECS, {}, overwrite=False) as writer:
        for name, tensor in TENSORS.items():
            writer.write(name, tensor)
        writer.finish()
        monkeypatch.setattr(writer_module, "check_target", and_then_somebody_writes)
        with pytest.raises(ConversionError, match="exists already"):
            writer.commit()
    assert target.read_text() == "somebody else's" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has a rename that refuses, in one step")
def test_a_death_between_both_names_is_no_obstacle(tmp_path: Path) -> None:
    target = tmp_path / "x.safetensors"
    temporary, _ = temporary_names(target)

    def write(tensors: dict[str, torch.Tensor], overwrite: bool) -> None:
        with Writer(target, SPECS, {}, overwrite=overwrite) as writer:
            for name, tensor in tensors.items():
                writer.write(name, tensor)
            writer.finish()
            writer.commit()

    write(TENSORS, overwrite=False)
    finished = target.read_bytes()
    os.link(target, temporary)
    with pytest.raises(ConversionError, match="exists already"):
        write(TENSORS, overwrite=False)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in TENSORS.items()}
    with Writer(target, SPECS, {}, overwrite=True) as writer:
        writer.write(next(iter(zeros)), next(iter(zeros.values())))
        assert target.read_bytes() == finished
    write(zeros, overwrite=True)
    assert target.read_bytes() != finished and list(tmp_path.iterdir()) == [target]


def test_where_files_have_no_second_names_the_target_is_made_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*names: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    target = tmp_path / "x.safetensors"
    with Writer(target, SPECS, {}, overwrite=False) as writer:
        for name, tensor in TENSORS.items():
            writer.write(name, tensor)
        writer.finish()
        writer.commit()
    assert load_file(target).keys() == TENSORS.keys() and list(tmp_path.iterdir()) == [target]


def test_what_was_not_planned_is_refused(tmp_path: Path) -> None:
    with Writer(tmp_path / "x.safetensors", SPECS, {}, overwrite=False) as writer:
        with pytest.raises(ConversionError, match="planned as torch.uint8"):
            writer.write("a", torch.zeros(3, 4, dtype=torch.uint8))
        with pytest.raises(ConversionError, match="planned with 15 bytes but came out with 17"):
            writer.write_piece("a", 14, memoryview(b"abc"))
        with pytest.raises(ConversionError, match="planned tensors were not written, first"):
            writer.finish()
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_told_before_anything_is_written(tmp_path: Path) -> None:
    huge = TensorSpec("huge", torch.uint8, (1 << 55,))
    with pytest.raises(ConversionError, match="GB free but the output needs"):
        Writer(tmp_path / "x.safetensors", [huge], {}, overwrite=False)
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import sys, torch
from pathlib import Path
from nvfp4_studio.converters import writer
from nvfp4_studio.converters.writing import target
target.SPACE_RESERVE = -10**9  # the check beforehand must not be what stops it
spec = writer.TensorSpec("a", torch.uint8, (8 << 20,))
try:
    with writer.Writer(Path(sys.argv[1]), [spec], {}, overwrite=False) as file:
        file.write("a", torch.ones(8 << 20, dtype=torch.uint8))
        file.finish()
except writer.ConversionError as error:
    print(error)
"""


def test_a_disk_that_fills_up_while_writing(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    try:
        run = subprocess.run(
            [sys.executable, "-c", FULL_DISK, str(folder / "x.safetensors")], capture_output=True, text=True
        )
        assert "is full, and the file was not kept" in run.stdout, run.stderr
        assert list(folder.iterdir()) == []
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_write_error_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the file size makes the operating system refuse the write itself."""
    resource = pytest.importorskip("resource", reason="this system has no limits on file size")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))

    code = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" + FULL_DISK
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.safetensors")], capture_output=True, text=True, preexec_fn=limit
    )
    assert "cannot be written: File too large" in run.stdout, run.stderr
    assert list(tmp_path.iterdir()) == []


FULL_JOURNAL = """
import resource, signal, sys
from pathlib import Path
from nvfp4_studio.converters.errors import SensitivityError
from nvfp4_studio.converters.writing.journal import Journal
from nvfp4_studio.converters.sensitivity.progress_file import ProgressFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))
journal = Journal(folder / "journal", "fingerprint")
journal.start({})
try:
    journal.add({f"layer.{number}": [[0, 1, 2]] for number in range(50)}, {})
except OSError:
    journal.remove()
try:
    with ProgressFile(folder / "progress", "fingerprint", str, str) as kept:
        try:
            kept.add("a" * 1000)
        finally:
            kept.remove()
except SensitivityError as error:
    print(error)
"""


def test_a_disk_that_refuses_a_line_of_a_journal(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="this system has no limits on file size")
    run = subprocess.run([sys.executable, "-c", FULL_JOURNAL, str(tmp_path)], capture_output=True, text=True)
    assert "progress cannot be written: File too large; make room" in run.stdout, run.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConversionError, match="cannot be written: Permission denied"):
        Writer(tmp_path / "x.safetensors", SPECS, {}, overwrite=False)


@pytest.mark.parametrize("name", [f".out.safetensors.{ending}" for ending in ("part", "journal", "search")])
def test_a_source_with_the_name_of_a_file_in_the_making_is_not_touched(name: str, tmp_path: Path) -> None:
    source = tmp_path / name
    save_file({"blocks.0.a.weight": torch.randn(64, 64)}, source)
    before = source.read_bytes()
    with pytest.raises(ConversionError, match="the source itself"):
        convert(source, tmp_path / "out.safetensors", Options(recipe="weight-only"))
    assert source.read_bytes() == before


def test_a_file_of_somebody_else_in_the_way_is_not_touched(tmp_path: Path) -> None:
    foreign = tmp_path / ".x.safetensors.part"
    foreign.write_bytes(b"half a download")
    with pytest.raises(ConversionError, match=r"\.x\.safetensors\.part is in the way"):
        _write(tmp_path / "x.safetensors")
    assert foreign.read_bytes() == b"half a download"


@pytest.mark.parametrize("place", [0.01, 0.4, 0.99])
def test_bytes_that_change_before_they_are_synced_are_noticed(place: float, tmp_path: Path) -> None:
    source, target = _eight_layers(tmp_path), tmp_path / "out.safetensors"
    flipped: list[bool] = []

    def flip(done: int, total: int, label: str) -> None:
        part = tmp_path / ".out.safetensors.part"
        if label == "writing to disk":
            with part.open("r+b") as file:
                file.seek(int(part.stat().st_size * place))
                found = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([found[0] ^ 1]))
            flipped.append(True)

    with pytest.raises((VerificationError, SourceError)):
        convert(source, target, Options(recipe="weight-only"), progress=flip)
    assert flipped and sorted(path.name for path in tmp_path.iterdir()) == ["in.safetensors"]


@pytest.mark.skipif(not hasattr(os, "pwrite"), reason="this system writes at no place")
@pytest.mark.parametrize("number", [0, 1, 5, -1])
def test_a_disk_that_keeps_other_bytes_is_noticed(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever write it is, the header's first and last among them, and however far the conversion is."""
    monkeypatch.setattr(syncing, "SYNC_BYTES", 1 << 16)
    source, target = _eight_layers(tmp_path), tmp_path / "out.safetensors"
    write = os.pwrite
    written: list[int] = []

    def counted(handle: int, data: memoryview, start: int) -> int:
        written.append(len(data))
        return write(handle, data, start)

    monkeypatch.setattr(os, "pwrite", counted)
    convert(source, target, Options(recipe="weight-only"))
    target.unlink()
    wrong = number % len(written)
    written.clear()

    def other(handle: int, data: memoryview, start: int) -> int:
        changed = bytearray(data)
        changed[-1] ^= len(written) == wrong
        return counted(handle, memoryview(changed), start)

    monkeypatch.setattr(os, "pwrite", other)
    with pytest.raises(VerificationError, match="gave back other bytes of"):
        convert(source, target, Options(recipe="weight-only"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.safetensors"]


def _eight_layers(folder: Path) -> Path:
    source = folder / "in.safetensors"
    save_file({f"blocks.{number}.a.weight": torch.randn(256, 256) for number in range(8)}, source)
    return source


def test_a_source_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    source, target = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    save_file({f"blocks.{number}.a.weight": torch.randn(256, 256) for number in range(8)}, source)

    def change(done: int, total: int, label: str) -> None:
        if label == "writing to disk":
            with source.open("r+b") as file:
                file.seek(-5000, os.SEEK_END)
                file.write(bytes(5000))

    with pytest.raises(SourceError, match="changed while it was converted"):
        convert(source, target, Options(recipe="weight-only"), progress=change)
    assert not target.exists()


def test_a_folder_that_cannot_be_synced_does_not_make_a_good_file_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network and FUSE folders answer EINVAL."""
    fsync = os.fsync

    def refuse_folders(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    _write(tmp_path / "x.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_threads_and_names_that_cannot_be(tmp_path: Path) -> None:
    source = tmp_path / "in.safetensors"
    save_file({"blocks.0.a.weight": torch.randn(64, 64)}, source)
    with pytest.raises(ConversionError, match="-1 threads"):
        convert(source, tmp_path / "out.safetensors", workers=-1)
    with pytest.raises(ConversionError, match="is no file name"):
        convert(source, "a\0b.safetensors")


@pytest.mark.parametrize(
    ("module", "function", "raised", "told"),
    [
        (
            execute,
            "encode",
            lambda *_: torch.empty(1 << 60, dtype=torch.uint8),
            "There is not enough memory for {}; close",
        ),
        (buffers, "bytearray", MemoryError(), "There is not enough memory for {}; close other programs"),
        (
            execute,
            "encode",
            torch.OutOfMemoryError("CUDA out of memory."),
            "The GPU has not enough memory for {}; close",
        ),
    ],
    ids=["rounding", "large tensor", "gpu"],
)
def test_memory_that_runs_out_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: object,
    function: str,
    raised: Exception | Callable[..., object],
    told: str,
) -> None:
    source = tmp_path / "in.safetensors"
    save_file({"blocks.0.a.weight": torch.randn(64, 64)}, source)

    def fail(*_: object) -> None:
        if isinstance(raised, Exception):
            raise raised
        raised()

    for limit in ("LEAST_UNDER_WAY", "MOST_UNDER_WAY"):
        monkeypatch.setattr(execute, limit, 8192)  # so that the weight gets memory of its own
    monkeypatch.setattr(module, function, fail, raising=False)
    with pytest.raises(ConversionError, match=told.format("blocks.0.a.weight")):
        convert(source, tmp_path / "out.safetensors", Options(recipe="weight-only"))
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]
