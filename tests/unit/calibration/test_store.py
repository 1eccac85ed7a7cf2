from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nvfp4_studio.calibration import Calibration, CalibrationError, Prompts, files, load, merge_files, save

ONE, TWO = f"{1:016x}", f"{2:016x}"
Sampled = Callable[[list[tuple[int, float]]], Calibration]


@pytest.fixture
def calibration(sampled: Sampled) -> Calibration:
    return sampled([(1, 0.9), (2, 0.3)])


@pytest.fixture
def stored(calibration: Calibration, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save(calibration, path)
    return path


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(evaluations=st.lists(st.tuples(st.integers(0, 100), st.floats(0, 1)), max_size=4))
def test_what_was_saved_is_loaded(sampled: Sampled, tmp_path: Path, evaluations: list[tuple[int, float]]) -> None:
    calibration = sampled(evaluations)
    save(calibration, tmp_path / "c.safetensors")
    assert load(tmp_path / "c.safetensors").same_as(calibration)


def test_the_file_is_plain_safetensors_with_a_few_tensors(stored: Path) -> None:
    tensors = load_file(stored)
    assert set(tensors) == {
        *("call_amax", "block_amax", "element_magnitude", "schedule"),
        *("schedule_amax", "fold_amax", "fold_samplings", "weight_samples"),
    }
    assert tensors["block_amax"].shape == (8, 641)


def test_folders_are_made_and_the_mode_is_an_ordinary_one(calibration: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "c.safetensors"
    save(calibration, path)
    plain = tmp_path / "plain"
    plain.write_text("x")
    assert path.stat().st_mode == plain.stat().st_mode
    assert [entry.name for entry in path.parent.iterdir()] == ["c.safetensors"]


class Stop(BaseException):
    pass


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("kind", [OSError, Stop])
def test_a_failure_while_writing_keeps_the_old_file_and_leaves_no_other(
    stored: Path, sampled: Sampled, monkeypatch: pytest.MonkeyPatch, step: str, kind: type[BaseException]
) -> None:
    old = stored.read_bytes()

    def fail(*args: object) -> None:
        raise kind(28, "No space left on device")

    monkeypatch.setattr(files.os, step, fail)
    with pytest.raises(CalibrationError if kind is OSError else kind):
        save(sampled([(5, 0.5)]), stored)
    monkeypatch.undo()
    assert stored.read_bytes() == old
    assert list(stored.parent.iterdir()) == [stored]


def test_the_error_of_a_full_disk_says_so(
    calibration: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(CalibrationError, match=r"c.safetensors cannot be written: No space left on device\.$"):
        save(calibration, tmp_path / "c.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="kills a process with SIGKILL")
def test_a_kill_in_the_middle_keeps_the_old_file(stored: Path, calibration: Calibration) -> None:
    child = os.fork()
    if child == 0:
        files.os.replace = lambda *paths: os.kill(os.getpid(), 9)  # type: ignore[attr-defined]
        save(calibration.merged(calibration), stored)
        os._exit(0)
    os.waitpid(child, 0)
    assert load(stored).same_as(calibration)


def test_what_a_kill_left_is_removed_by_a_later_save(tmp_path: Path, calibration: Calibration) -> None:
    path, now = tmp_path / "model [v1].safetensors", time.time()
    ages = {
        ".model [v1].safetensors.0123456789ab.tmp": 2 * files.ABANDONED_SECONDS,
        ".model [v1].safetensors.ba9876543210.tmp": 60,  # another program may be writing it
        ".model v.safetensors.0123456789ab.tmp": 2 * files.ABANDONED_SECONDS,
        ".model [v1].safetensors.mine.tmp": 2 * files.ABANDONED_SECONDS,
    }
    for name, age in ages.items():
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (now - age, now - age))
    save(calibration, path)
    assert {found.name for found in tmp_path.iterdir()} == {path.name, *list(ages)[1:]}


def test_a_file_that_others_look_at_is_replaced_when_they_are_done(
    stored: Path, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, refusals = os.replace, [PermissionError(13, "Permission denied")] * 3

    def busy(*paths: Path) -> None:
        if refusals:
            raise refusals.pop()
        replace(*paths)

    monkeypatch.setattr(files.os, "replace", busy)
    more = calibration.merged(calibration)
    with pytest.raises(CalibrationError, match=r"cannot be written: Permission denied\.$"):
        save(more, stored)  # where the system has no such reason to refuse, once is enough
    assert len(refusals) == 2
    monkeypatch.setattr(files, "PAUSES", (0.0, 0.0))
    save(more, stored)
    assert refusals == [] and load(stored).same_as(more)
    assert list(stored.parent.iterdir()) == [stored]


def test_a_loaded_calibration_does_not_depend_on_the_file(stored: Path, calibration: Calibration) -> None:
    loaded = load(stored)
    stored.write_bytes(b"\0" * stored.stat().st_size)
    assert loaded.same_as(calibration)


def test_merging_files_in_any_order(sampled: Sampled, tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.safetensors" for index in range(3)]
    for index, path in enumerate(paths):
        save(sampled([(index, index / 3)]), path)
    merged = merge_files(paths)
    assert merged.same_as(merge_files(reversed(paths)))
    assert (merged.samplings, merged.steps) == (3, 3)


def test_merging_files_of_different_models_names_the_file(stored: Path, tmp_path: Path) -> None:
    def other(description: dict[str, object]) -> None:
        description["layers"][0][1] = 48  # type: ignore[index]

    odd = rewritten(stored, tmp_path / "odd.safetensors", other)
    with pytest.raises(CalibrationError, match=r"odd.safetensors does not fit .*blocks.0.to_k: 32 and 48 input"):
        merge_files([stored, odd])


def rewritten(path: Path, target: Path, change: Callable[[dict[str, object]], None]) -> Path:
    """A copy of the file with another description."""
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    description = json.loads(metadata["calibration"])
    change(description)
    save_file(load_file(path), target, {**metadata, "calibration": json.dumps(description)})
    return target


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        *(
            ("prompts", odd, r"the prompts are not up to 64 ordered digests with the number of their samplings\.$")
            for odd in (
                *([], {}, "x", {"samplings": 1}, {"digests": [ONE]}),
                *({"samplings": count, "digests": [ONE]} for count in (0, True, 2, -1, 1.0, "1", None)),
                *({"samplings": 1, "digests": digests} for digests in ([], [ONE, TWO], {}, ONE, None)),
                *({"samplings": 1, "digests": [digest]} for digest in (1, ["a"], None, "1", "f" * 16, f" {ONE[1:]}")),
            )
        ),
        ("steps", -1, "steps is -1, no count"),
        ("images", True, "images is True, no count"),
        ("samplings", 1e3, "samplings is 1000.0, no count"),
        ("samplings", 2**60, "no count"),
        ("unobserved", [], "unobserved layers"),
        ("unobserved", {"a": 1}, "unobserved layers"),
        ("unobserved", {"a\x1b[2J": "never ran"}, "unobserved layers"),
        ("layers", {}, "no list"),
        ("layers", [["a"]] * 8, "nine counts and an amax"),
        ("layers", [[["nested"], 1, 1, 1, 1, 1, 1, 0, 0, 0, 1.0]] * 8, "nine counts and an amax"),
        ("layers", [["a", 1, 1, 1, 1, 1, 1, 0, 0, 0, float("nan")]] * 8, "the amax of layer a is nan"),
        ("layers", [["a", 1, 1, 1, 1, 1, 1, 0, 0, 0, float("inf")]] * 8, "the amax of layer a is inf"),
        ("layers", [["a", 1, 1, 1, 1, 1, 1, 0, 0, 0, 10**400]] * 8, "the amax of layer a is 1000"),
        ("layers", [["a", 1, 1, 1, 1, 1, 1, 0, 0, 0, 1.0]] * 8, "listed twice"),
        ("layers", [], r"call_amax is I64 \[8, 641\], expected I64 \[0, 641\]"),
    ],
)
def test_a_wrong_description_is_refused(stored: Path, tmp_path: Path, field: str, value: object, message: str) -> None:
    odd = rewritten(stored, tmp_path / "odd.safetensors", lambda description: description.update({field: value}))
    with pytest.raises(CalibrationError, match=message):
        load(odd)


@pytest.mark.parametrize("digests", [[TWO, ONE], [ONE, ONE], [f"{number:016x}" for number in range(65)]])
def test_digests_out_of_order_twice_or_too_many_are_refused(stored: Path, tmp_path: Path, digests: list[str]) -> None:
    def change(description: dict[str, object]) -> None:
        description.update(samplings=100, prompts={"samplings": 100, "digests": digests})

    with pytest.raises(CalibrationError, match="the prompts are not"):
        load(rewritten(stored, tmp_path / "odd.safetensors", change))


def test_prompts_are_kept_and_a_file_of_before_has_unknown_ones(calibration: Calibration, tmp_path: Path) -> None:
    prompts = Prompts((0, 2**63 - 1), 2)
    known = dataclasses.replace(calibration.merged(calibration), prompts=prompts)
    save(known, tmp_path / "known.safetensors")
    save(calibration, tmp_path / "before.safetensors")
    with safe_open(tmp_path / "before.safetensors", framework="pt") as file:
        assert "prompts" not in file.metadata()["calibration"]
    assert load(tmp_path / "known.safetensors").same_as(known)
    assert load(tmp_path / "before.safetensors").prompts == Prompts()
    merged = merge_files([tmp_path / "before.safetensors", tmp_path / "known.safetensors"])
    assert (merged.samplings, merged.prompts) == (3, prompts)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("block_amax", lambda tensor: tensor - 1, "a count outside"),
        ("block_amax", lambda tensor: tensor + 2**60, "a count outside"),
        ("element_magnitude", lambda tensor: tensor + 1, "contradict each other"),
        ("call_amax", lambda tensor: tensor.to(torch.int32), r"call_amax is I32 \[8, 641\], expected I64"),
        ("call_amax", lambda tensor: tensor[:, :5].contiguous(), r"\[8, 5\]"),
        ("schedule", lambda tensor: tensor[:1].clone(), r"schedule is I64 \[1, 16\]"),
        ("schedule_amax", lambda tensor: tensor * float("nan"), "not finite"),
        ("schedule_amax", lambda tensor: tensor - 1e9, "negative"),
    ],
)
def test_wrong_tensors_are_refused(
    stored: Path, tmp_path: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor], message: str
) -> None:
    with safe_open(stored, framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(stored)
    tensors[name] = change(tensors[name])
    save_file(tensors, tmp_path / "odd.safetensors", metadata)
    with pytest.raises(CalibrationError, match=message):
        load(tmp_path / "odd.safetensors")


def test_a_missing_tensor_another_version_and_another_kind(stored: Path, tmp_path: Path) -> None:
    with safe_open(stored, framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(stored)
    odd = tmp_path / "odd.safetensors"
    save_file({name: tensors[name] for name in tensors if name != "schedule"}, odd, metadata)
    with pytest.raises(CalibrationError, match="schedule is missing"):
        load(odd)
    save_file(tensors, odd, {**metadata, "version": "1"})
    with pytest.raises(
        CalibrationError, match=r"its version is '1' and this nvfp4-studio reads '2', so calibrate again"
    ):
        load(odd)
    save_file(tensors, odd)
    with pytest.raises(CalibrationError, match="a safetensors file of another kind"):
        load(odd)
    save_file(tensors, odd, {**metadata, "calibration": "[" * 200_000})
    with pytest.raises(CalibrationError, match="no JSON"):
        load(odd)


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 64, b"\x10\0\0\0\0\0\0\0{}"])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match="not a usable calibration: it is no safetensors file"):
        load(path)


def test_a_truncated_file_is_refused(stored: Path) -> None:
    stored.write_bytes(stored.read_bytes()[:-100])
    with pytest.raises(CalibrationError, match="no safetensors file"):
        load(stored)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"There is no calibration .*absent"):
        load(tmp_path / "absent.safetensors")
    with pytest.raises(CalibrationError):
        load(tmp_path)


def test_a_huge_file_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    with open(path, "wb") as file:
        file.truncate(1 << 37)
    with pytest.raises(CalibrationError, match="more than"):
        load(path)
