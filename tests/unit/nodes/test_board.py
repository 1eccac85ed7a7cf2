"""The board of conversions: what runs, how fast, and how it ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nvfp4_studio.converters import Cancelled, PlanError
from nvfp4_studio.nodes.studio.board import FINISHED, Board


class Interrupt(BaseException):
    """Like ComfyUI's, no Exception."""


@pytest.fixture
def told() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def board(told: list[dict[str, Any]]) -> Board:
    return Board(told.append, (Interrupt,))


def test_a_running_conversion_has_rate_and_remaining_time(board: Board) -> None:
    with board.conversion("p", "5", "diffusion_models/a.safetensors", "a-nvfp4") as entry:
        board.update(entry, 1000, 4000, "blocks.0")
        while board.running()[0]["rate"] in (None, 0):
            board.update(entry, 2000, 4000, "blocks.1")
        found = board.running()[0]
        assert (found["done"], found["total"], found["label"]) == (2000, 4000, "blocks.1")
        assert found["remaining_s"] == pytest.approx(2000 / found["rate"])
    assert board.running() == [] and board.finished()[0]["error"] is None


@pytest.mark.parametrize("after", [(0, 900), (10, 900), (850, 4000)])
def test_the_next_stage_has_a_rate_of_its_own(board: Board, after: tuple[int, int]) -> None:
    with board.conversion("p", "5", "s", "t") as entry:
        while entry.rate() is None:
            board.update(entry, 800, 900, "searching pre_quant_scale of blocks.0")
        board.update(entry, *after, "blocks.0")
        assert entry.rate() is None
        while entry.rate() is None:
            board.update(entry, after[0] + 5, after[1], "blocks.1")
        rate = entry.rate()
        assert rate is not None and rate > 0


@pytest.mark.parametrize(
    ("error", "sentence", "cancelled"),
    [
        (PlanError("No recipe."), "No recipe.", False),
        (Cancelled("Cancelled."), None, True),
        (Interrupt(), None, True),
        (ZeroDivisionError(), "It ended unexpectedly: ComfyUI's log has the details.", False),
    ],
)
def test_how_it_ended_is_remembered_and_raised(
    board: Board, error: BaseException, sentence: str | None, cancelled: bool
) -> None:
    with pytest.raises(type(error)), board.conversion("p", "5", "s", "t"):
        raise error
    (found,) = board.finished()
    assert (found["error"], found["cancelled"]) == (sentence, cancelled)


def test_a_file_that_was_there_already_is_no_conversion(board: Board) -> None:
    with board.conversion("p", "5", "s", "t") as entry:
        entry.skipped = True
    with board.conversion("p", "6", "s", "t"):
        pass
    assert [(found["node"], found["skipped"]) for found in board.finished()] == [("6", False), ("5", True)]


def test_pages_are_told_of_beginning_and_end_and_seldom_between(board: Board, told: list[dict[str, Any]]) -> None:
    with board.conversion("p", "5", "s", "t") as entry:
        for done in range(1000):
            board.update(entry, done, 1000, "")
    states = [entry["state"] for entry in told]
    assert states[0] == "running" and states[-1] == "finished" and len(states) < 100


def test_only_the_last_ones_are_remembered_newest_first(board: Board) -> None:
    for number in range(FINISHED + 5):
        with board.conversion(str(number), "5", "s", "t"):
            pass
    found = board.finished()
    assert len(found) == FINISHED and found[0]["prompt_id"] == str(FINISHED + 4)


def test_errors_name_files_as_pages_do(board: Board, tmp_path: Path) -> None:
    target = tmp_path / "output" / "a.safetensors"
    with pytest.raises(PlanError), board.conversion("p", "5", "s", "a") as entry:
        entry.paths[target] = "diffusion_models/a.safetensors"
        raise PlanError(f"{target} exists already; {target.parent} is full.")
    assert board.finished()[0]["error"] == "diffusion_models/a.safetensors exists already; its folder is full."
