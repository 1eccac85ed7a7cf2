"""The work folder: counted once, whatever happens in between."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from nvfp4_studio.calibration import Calibration, load, merge_files, save
from nvfp4_studio.cli.servers.board import Board
from nvfp4_studio.cli.servers.errors import RequestError, ServerError
from nvfp4_studio.cli.servers.journal import DifferentModel, WorkFolder
from nvfp4_studio.converters.sensitivity import Probes, beside, keep_beside, merged_influence
from nvfp4_studio.tests.unit.cli.observed import observed_layers

REQUEST = {"name": "x", "samples": 4}


def statistics(seed: int, names: tuple[str, ...] = ("a", "b"), width: int = 32) -> Calibration:
    return Calibration(observed_layers(names, width, seed), {}, samplings=1, images=1, steps=1)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """The statistics of four jobs."""
    folder = tmp_path / "jobs"
    folder.mkdir()
    made = [folder / f"{job}.safetensors" for job in range(4)]
    for job, path in enumerate(made):
        save(statistics(job), path)
        keep_beside({"a": Probes.of(0.1 * job), f"only {job}": Probes.of(1.0)} if job else {}, path)
    return made


def test_jobs_are_counted_once_in_any_order_over_restarts(tmp_path: Path, files: list[Path]) -> None:
    folder = tmp_path / "run.work"
    with WorkFolder(folder, REQUEST, 1) as work:
        assert work.count(2, [files[2]]) == 1 and work.count(0, [files[0]]) == 1
        assert work.count(2, [files[2]]) == 0
        name = work.run
    with WorkFolder(folder, REQUEST, 1) as work:
        assert work.done == {0, 2} and work.images == 2 and work.run == name
        for job in (3, 2, 1):
            work.count(job, [files[job]])
        assert work.sums[0].same_as(merge_files(files))
        assert work.influence == [merged_influence(files)] and work.influence[0]["a"].count == 3
        work.remove()
    assert not folder.exists()


def test_a_crash_between_any_two_steps_counts_nothing_twice(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every state of the folder that the disk has while a job is counted is one that a new run continues from."""
    folder, states = tmp_path / "run.work", []

    def note(*_: object, **__: object) -> None:
        states.append(tmp_path / f"state-{len(states)}")
        shutil.copytree(folder, states[-1])

    with WorkFolder(folder, REQUEST, 1) as work:
        work.count(0, [files[0]])
        for target in ("save", "keep_beside", "write_atomically"):
            original = getattr(__import__(WorkFolder.__module__, fromlist=[target]), target)

            def watched(*arguments: object, original: object = original) -> None:
                note()
                original(*arguments)  # type: ignore[operator]
                note()

            monkeypatch.setattr(f"{WorkFolder.__module__}.{target}", watched)
        work.count(1, [files[1]])
        note()
    monkeypatch.undo()
    assert len(states) == 7
    for state in states:
        with WorkFolder(state, REQUEST, 1) as work:
            for job in range(4):
                work.count(job, [files[job]])
            assert work.sums[0].same_as(merge_files(files))
            assert work.influence == [merged_influence(files)]
            assert len(list(state.glob("*.safetensors"))) == len(list(state.glob("*.influence.json"))) == 1


def test_an_odd_influence_counts_nothing(tmp_path: Path, files: list[Path]) -> None:
    beside(files[1]).write_text("{}")
    with WorkFolder(tmp_path / "run.work", REQUEST, 1) as work:
        with pytest.raises(ServerError, match="no usable influence"):
            work.count(1, [files[1]])
        assert work.done == set() and work.count(2, [files[2]]) == 1


def test_two_models_are_counted_together_or_not_at_all(tmp_path: Path, files: list[Path]) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no")
    with WorkFolder(tmp_path / "run.work", REQUEST, 2) as work:
        with pytest.raises(ServerError, match="cannot be used"):
            work.count(0, [files[0], broken])
        assert work.done == set() and work.sums == []
        work.count(0, [files[0], files[1]])
        assert work.sums[1].same_as(load(files[1]))


@pytest.mark.parametrize("other", [statistics(1, ("a", "c")), statistics(1, width=64)])
def test_another_model_is_refused_and_the_rest_stays(tmp_path: Path, files: list[Path], other: Calibration) -> None:
    path = tmp_path / "other.safetensors"
    save(other, path)
    with WorkFolder(tmp_path / "run.work", REQUEST, 1) as work:
        work.count(0, [files[0]])
        with pytest.raises(DifferentModel):
            work.count(1, [path])
        assert work.done == {0} and work.sums[0].same_as(load(files[0]))


def test_empty_statistics_are_no_result(tmp_path: Path) -> None:
    path = tmp_path / "empty.safetensors"
    save(Calibration(), path)
    with WorkFolder(tmp_path / "run.work", REQUEST, 1) as work, pytest.raises(ServerError, match="are empty"):
        work.count(0, [path])


def test_a_folder_in_use_or_of_another_request_is_refused(tmp_path: Path, files: list[Path]) -> None:
    folder = tmp_path / "run.work"
    with WorkFolder(folder, REQUEST, 1) as work:
        work.count(0, [files[0]])
        with pytest.raises(RequestError, match="Another run is using"), WorkFolder(folder, REQUEST, 1):
            pass
    with pytest.raises(RequestError, match="with other samples, seed"):
        WorkFolder(folder, {"name": "x", "samples": 5, "seed": 0}, 1).__enter__()


def test_a_run_that_counted_nothing_stands_in_nobodys_way(tmp_path: Path, files: list[Path]) -> None:
    folder = tmp_path / "run.work"
    with WorkFolder(folder, REQUEST, 1) as work:
        shutil.copytree(folder, tmp_path / "killed.work")
        name = work.run
    assert not folder.exists()
    with WorkFolder(tmp_path / "killed.work", {"name": "other"}, 1) as work:
        assert work.run == name and work.count(0, [files[0]]) == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b"\xff", json.dumps({"format": "nvfp4-studio-calibrate", "version": 9}).encode()],
)
def test_an_odd_journal_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "run.work"
    folder.mkdir()
    (folder / "journal.json").write_bytes(content)
    with pytest.raises(RequestError, match="is no journal of this version"):
        WorkFolder(folder, REQUEST, 1).__enter__()


def test_a_job_that_failed_goes_elsewhere_once() -> None:
    async def play() -> None:
        board = Board([1, 2])
        await board.enter("a")
        await board.enter("b")
        assert await board.take("a") == 1
        await board.failed(1, "a", "no memory")
        assert await board.take("a") == 2, "what failed here is for the others"
        assert await board.take("b") == 1
        await board.failed(1, "b", "no memory")
        assert board.given_up == {1: "a: no memory; b: no memory"} and board.unfinished
        waiting = asyncio.create_task(board.take("b"))
        await asyncio.sleep(0)
        await board.give_back(2)
        assert await waiting == 2
        await board.counted(2)
        assert await board.take("a") is None and not board.unfinished

    asyncio.run(play())


def test_the_only_server_tries_again_itself() -> None:
    async def play() -> None:
        board = Board([1])
        await board.enter("a")
        await board.enter("b")
        assert await board.take("a") == 1
        await board.failed(1, "a", "no memory")
        waiting = asyncio.create_task(board.take("a"))
        await asyncio.sleep(0)
        assert not waiting.done()
        await board.leave("b")
        assert await waiting == 1 and board.anybody

    asyncio.run(play())
