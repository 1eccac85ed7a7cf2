from __future__ import annotations

import io

import pytest

from nvfp4_studio.cli.progress import Bar
from nvfp4_studio.cli.text import decibels, duration, size, table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


def lines(stream: io.StringIO) -> list[str]:
    return [line.rstrip() for line in stream.getvalue().split("\r") if line.strip()]


def test_nothing_is_written_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with Bar(stream=stream) as bar:
        bar(1, 10, "writing")
        bar(10, 10, "done")
    assert stream.getvalue() == ""


def test_share_rate_and_remaining_time(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    with Bar(stream=stream, clock=lambda: clock[0]) as bar:
        for clock[0], done in ((0.0, 0), (2.0, 200_000_000), (4.0, 400_000_000)):
            bar(done, 1_000_000_000, "writing blocks.0")
    assert lines(stream)[-1] == "[##########--------------]  40% 400 MB/1 GB 100 MB/s 6 s left writing blocks.0"
    assert stream.getvalue().endswith("\r"), "the line is cleared at the end"


def test_a_new_stage_starts_its_own_rate(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    bar = Bar(stream=stream, clock=lambda: clock[0])
    for clock[0], done, total in ((0.0, 0, 10), (5.0, 10, 10), (6.0, 0, 40), (8.0, 4, 40)):
        bar(done, total, "sampling")
    assert lines(stream)[-1].endswith("10% 4/40 2/s 18 s left sampling")


def test_it_is_drawn_ten_times_a_second_at_most(clock: list[float]) -> None:
    stream = Terminal()
    bar = Bar(stream=stream, clock=lambda: clock[0])
    for step in range(100):
        clock[0] = step / 1000
        bar(step, 1000, "writing")
    assert len(lines(stream)) == 1


@pytest.mark.parametrize("columns", ["10", "40", "80", "200"])
def test_a_line_never_wraps(columns: str, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    stream = Terminal()
    bar = Bar(stream=stream, clock=lambda: clock[0])
    for clock[0], done in ((0.0, 0), (3.0, 123_456_789)):
        bar(done, 27_000_000_000, "writing " + "x" * 300)
    assert max(map(len, lines(stream))) < int(columns)


def test_an_empty_total_is_no_division_by_zero() -> None:
    bar = Bar(stream=Terminal())
    bar(0, 0, "nothing")


def test_sizes_durations_and_decibels() -> None:
    assert [size(count) for count in (0, 999, 1000, 999_999, 27_123_000_000, 5e15)] == [
        "0 B",
        "999 B",
        "1 kB",
        "1 MB",
        "27.1 GB",
        "5e+03 TB",
    ]
    assert [duration(seconds) for seconds in (0.4, 59.4, 60, 185, 3727)] == ["0 s", "59 s", "1:00", "3:05", "1:02:07"]
    assert decibels(None) == "identical" and decibels(20.44) == "20.4 dB"


def test_tables_align_numbers_right() -> None:
    assert table(("name", "n"), [("a", 5), ("long", 12)]) == "name   n\na      5\nlong  12"
    assert table(("name",), []) == ""
