"""What a killed conversion leaves is found, told from one that runs, and removed on demand; nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvfp4_studio.converters.errors import ConversionError
from nvfp4_studio.converters.writing.journal import Journal, lock
from nvfp4_studio.converters.writing.leftovers import Leftover, discard, leftover, leftovers
from nvfp4_studio.converters.writing.target import search_name, temporary_names


def left(folder: Path, name: str = "model", size: int = 1000) -> Path:
    """Files as a kill leaves them: two tensors of 100 and 300 bytes are on the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}.safetensors"
    temporary, journal = temporary_names(target)
    temporary.write_bytes(bytes(size))
    Journal(journal, "fingerprint").start({"a.weight": [[0, 100, 7]], "b.weight": [[0, 200, 7], [200, 100, 7]]})
    journal.write_bytes(journal.read_bytes() + b'{"a": ["a remark"]}\n')
    return target


def test_a_leftover_tells_how_far_it_came(tmp_path: Path) -> None:
    target = left(tmp_path / "sub")
    found = leftovers(tmp_path)
    assert found == [leftover(target)]
    assert isinstance(found[0], Leftover) and (found[0].target, found[0].done, found[0].total) == (target, 400, 1000)


def test_what_another_program_writes_is_no_leftover(tmp_path: Path) -> None:
    target = left(tmp_path)
    with temporary_names(target)[0].open("r+b") as file:
        assert lock(file)
        assert leftovers(tmp_path) == []
        with pytest.raises(ConversionError, match="cancel it instead"):
            discard(target)
    assert leftover(target) is not None


def test_discarding_removes_both_files_and_nothing_else(tmp_path: Path) -> None:
    target, other = left(tmp_path), left(tmp_path, "other")
    target.write_bytes(b"an earlier result")
    discard(target)
    assert leftovers(tmp_path) == [leftover(other)] and target.read_bytes() == b"an earlier result"
    with pytest.raises(ConversionError, match="Nothing is left"):
        discard(target)


def test_a_conversion_that_was_killed_while_it_searched_is_found_and_can_be_discarded(tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    search = search_name(target)
    search.write_bytes(b'"fingerprint"\n')
    with search.open("r+b") as file:
        assert lock(file)
        assert leftovers(tmp_path) == []
        with pytest.raises(ConversionError, match="cancel it instead"):
            discard(target)
    assert leftovers(tmp_path) == [Leftover(target, 0, 0, search.stat().st_mtime_ns)]
    discard(target)
    assert list(tmp_path.iterdir()) == []


def test_what_was_searched_belongs_to_the_file_in_the_making(tmp_path: Path) -> None:
    target = left(tmp_path)
    search_name(target).write_bytes(b'"fingerprint"\n')
    assert [(found.target, found.done) for found in leftovers(tmp_path)] == [(target, 400)]
    with search_name(target).open("r+b") as file:
        assert lock(file), "a conversion that goes on with it is searching"
        assert leftovers(tmp_path) == []
        with pytest.raises(ConversionError, match="cancel it instead"):
            discard(target)
    discard(target)
    assert list(tmp_path.iterdir()) == []


def test_files_without_a_journal_and_links_are_left_alone(tmp_path: Path) -> None:
    target = left(tmp_path)
    temporary, journal = temporary_names(target)
    outside = tmp_path / "outside"
    temporary.rename(outside)
    temporary.symlink_to(outside)
    assert leftovers(tmp_path) == []
    with pytest.raises(ConversionError):
        discard(target)
    temporary.unlink()
    outside.rename(temporary)
    journal.unlink()
    assert leftovers(tmp_path) == []
    with pytest.raises(ConversionError):
        discard(target)
    assert temporary.stat().st_size == 1000


def test_a_damaged_journal_counts_what_can_be_read(tmp_path: Path) -> None:
    target = left(tmp_path)
    journal = temporary_names(target)[1]
    journal.write_bytes(
        journal.read_bytes() + b'{"c.weight": 7}\nnot json\n{"d.weight": [[0, 50, 7]]}\n{"e.weight": [[0, 5'
    )
    found = leftover(target)
    assert found is not None and found.done == 450


@pytest.mark.parametrize(
    "line", ['{"c": [{}]}', '{"c": [[0, NaN, 7]]}', '{"c": [[0, -5, 7]]}', '{"c": [[0, 1e999, 7]]}', "[" * 100_000, "7"]
)
def test_damaged_lines_of_a_journal_count_for_nothing(tmp_path: Path, line: str) -> None:
    target = left(tmp_path)
    journal = temporary_names(target)[1]
    journal.write_bytes(journal.read_bytes() + line.encode() + b"\n")
    found = leftover(target)
    assert found is not None and found.done == 400
