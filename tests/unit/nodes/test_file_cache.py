"""Values that are kept for as long as their files do not change."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterable
from pathlib import Path

import pytest

from nvfp4_studio.nodes.studio.cache import FileCache


class Maker:
    """Makes the content of files, and counts how often."""

    def __init__(self, *files: Path) -> None:
        self.files, self.made = files, 0

    def __call__(self) -> tuple[str, Iterable[Path]]:
        self.made += 1
        return "".join(file.read_text() for file in self.files), self.files


def settled(path: Path, text: str, age: float = 60) -> Path:
    """A file that was written a while ago."""
    path.write_text(text)
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_a_value_is_made_once_while_its_files_stay(tmp_path: Path) -> None:
    cache: FileCache[str] = FileCache(2)
    make = Maker(settled(tmp_path / "a", "one"), settled(tmp_path / "b", "two"))
    assert [cache.get("key", make) for _ in range(3)] == ["onetwo"] * 3 and make.made == 1


@pytest.mark.parametrize("age", [30, 90])
def test_a_changed_file_makes_it_anew_even_with_an_older_time(tmp_path: Path, age: float) -> None:
    cache: FileCache[str] = FileCache(2)
    make = Maker(settled(tmp_path / "a", "one"))
    cache.get("key", make)
    settled(tmp_path / "a", "six", age)
    assert cache.get("key", make) == "six" and make.made == 2


def test_a_file_that_is_being_written_is_not_kept(tmp_path: Path) -> None:
    cache: FileCache[str] = FileCache(2)
    (tmp_path / "a").write_text("new")
    make = Maker(tmp_path / "a")
    assert [cache.get("key", make) for _ in range(2)] == ["new", "new"] and make.made == 2


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache: FileCache[str] = FileCache(2)
    makers = {name: Maker(settled(tmp_path / name, name)) for name in "abc"}
    for name in "abacab":
        assert cache.get(name, makers[name]) == name
    assert {name: maker.made for name, maker in makers.items()} == {"a": 1, "b": 2, "c": 1}


@pytest.mark.parametrize("how", ["asked again", "told"])
def test_the_value_of_a_file_that_changed_is_let_go(tmp_path: Path, how: str) -> None:
    class Value:
        """As a calibration, it holds its file open."""

    def read() -> tuple[Value, Iterable[Path]]:
        return Value(), (tmp_path / "a",)

    cache: FileCache[Value] = FileCache(2)
    settled(tmp_path / "a", "one")
    old = weakref.ref(cache.get("key", read))
    assert old() is not None
    (tmp_path / "a").write_text("new")
    if how == "told":
        cache.forget_old()
    else:
        cache.get("key", read)
    assert old() is None


def test_an_error_is_not_kept(tmp_path: Path) -> None:
    cache: FileCache[str] = FileCache(2)
    make = Maker(tmp_path / "absent")
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            cache.get("key", make)
    assert make.made == 2
