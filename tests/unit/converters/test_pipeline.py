"""Working ahead on threads: order, bounded look-ahead, errors, and torch's threads restored."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from nvfp4_studio.converters.pipeline import one_thread, ordered


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order(workers: int) -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.02 if item == 0 else 0)
        return item * item

    assert list(ordered(slow_first, range(20), workers)) == [(item, item * item) for item in range(20)]


def test_work_is_not_done_far_ahead() -> None:
    begun: list[int] = []
    results = ordered(lambda item: begun.append(item), range(100), 2)
    next(results)
    time.sleep(0.05)
    assert len(begun) <= 4
    results.close()


def test_an_error_comes_where_its_result_was_due_and_stops_the_rest() -> None:
    begun: list[int] = []

    def fail_at_three(item: int) -> int:
        begun.append(item)
        if item == 3:
            raise KeyError(item)
        return item

    seen = []
    with pytest.raises(KeyError):
        for item, _ in ordered(fail_at_three, range(100), 2):
            seen.append(item)
    assert seen == [0, 1, 2] and len(begun) < 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("nvfp4-studio")]


def test_torchs_threads_are_restored_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ValueError), one_thread():
        assert torch.get_num_threads() == 1
        raise ValueError
    assert torch.get_num_threads() == before
