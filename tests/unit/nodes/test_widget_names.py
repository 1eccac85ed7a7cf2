"""Names from widgets: what may become a file, and where it then lies."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvfp4_studio.nodes.names import InvalidName, file_below, relative_parts

HOSTILE = [
    "",
    "   ",
    "/etc/passwd",
    "//host/share",
    "\\\\host\\share\\x",
    "\\\\?\\C:\\x",
    "C:\\x",
    "C:x",
    "..",
    "../x",
    "a/../../x",
    "a\\..\\..\\x",
    "./x",
    "a//b",
    "a/",
    "nul",
    "NUL.safetensors",
    "com1",
    "LPT9.x.safetensors",
    "aux/x",
    "con .x",
    "x:stream",
    "x\0y",
    "x\ny",
    "x*",
    'x"',
    "x|y",
    "x.",
    "a /b",
    "a./b",
    "x" * 201,
    "/".join(["x" * 200] * 5),
    "x\x85y",
    "x\u2028y",
    "x\u202etxt.exe",
    "x\u2066y",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidName) as caught:
        file_below(tmp_path, name, "output name")
    assert "output name" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("my-model", ("my-model.safetensors",)),
        ("my-model.safetensors", ("my-model.safetensors",)),
        ("v1.5", ("v1.5.safetensors",)),
        ("wan/high noise", ("wan", "high noise.safetensors")),
        ("wan\\high", ("wan", "high.safetensors")),
        ("Modell-ä-模型", ("Modell-ä-模型.safetensors",)),
        ("console", ("console.safetensors",)),
    ],
)
def test_ordinary_names_become_one_file_below_the_folder(name: str, parts: tuple[str, ...], tmp_path: Path) -> None:
    assert file_below(tmp_path, name, "output name") == tmp_path.joinpath(*parts)


def test_a_link_inside_the_folder_is_not_followed_out_of_it(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "link").symlink_to(outside, target_is_directory=True)
    with pytest.raises(InvalidName, match="leads out of"):
        file_below(root, "link/x", "output name")


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "real", target_is_directory=True)
    assert file_below(tmp_path / "root", "x", "output name") == tmp_path / "root" / "x.safetensors"


@given(st.text(max_size=40))
def test_no_text_leads_out_of_the_folder(name: str) -> None:
    root = Path("/models/here")
    try:
        path = file_below(root, name, "output name")
    except InvalidName:
        return
    assert path.is_relative_to(root) and ".." not in path.parts and path.suffix == ".safetensors"


@given(st.lists(st.sampled_from(["..", ".", "a", "b ", "nul", "C:", "", "x."]), min_size=1, max_size=5))
def test_parts_are_plain(pieces: list[str]) -> None:
    try:
        parts = relative_parts("/".join(pieces), "source")
    except InvalidName:
        return
    assert all(part == "a" or part == "b" for part in parts)
