"""Listing, downloading and deleting calibrations over HTTP: what works, and that nothing else can be reached."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

LIST = "/nvfp4_studio/calibrations"
FILE = "/nvfp4_studio/calibrations/file"
INFLUENCE = "/nvfp4_studio/calibrations/influence"
DELETE = "/nvfp4_studio/calibrations/delete"
HOSTILE = [
    "..",
    "../secret",
    "..%2Fsecret",
    "a/../../secret",
    "..\\secret",
    "/etc/passwd",
    "//host/share",
    "\\\\host\\share\\x",
    "\\\\?\\C:\\x",
    "C:\\x",
    "C:x",
    "nul",
    "COM1",
    "kept:stream",
    "kept\0",
    "ke\npt",
    "kept.",
    "",
    "x" * 201,
    "x" * 5000,
    "\U0001f98a" * 150,
]


@pytest.fixture
def files(classic_server: Any) -> Iterator[dict[str, Path]]:
    """A calibration that is there, one in a folder, one outside, and links to the outside."""
    folder = classic_server.base / "models" / "nvfp4_calibration"
    for earlier in folder.glob("*.*"):
        earlier.unlink()
    outside = classic_server.base / "outside"
    (folder / "sub").mkdir(parents=True, exist_ok=True)
    outside.mkdir(exist_ok=True)
    made = {
        "kept": folder / "kept.safetensors",
        "sub/two": folder / "sub" / "two.safetensors",
        "outside": outside / "far.safetensors",
        "secret": folder.parent / "secret.safetensors",
        "influence": folder / "kept.influence.json",
        "far influence": outside / "far.influence.json",
    }
    for path in made.values():
        path.write_bytes(b"statistics " * 100_000)
    links = {folder / "file-link.safetensors": made["outside"], folder / "folder-link": outside}
    links[folder / "sub" / "two.influence.json"] = made["far influence"]
    for link, target in links.items():
        link.symlink_to(target)
    yield made
    for path in (*links, *made.values()):
        path.unlink(missing_ok=True)


def ask(server: Any, path: str, body: object = None, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """A request with headers of one's own."""
    data = None if body is None else json.dumps(body).encode()
    kind = {"Content-Type": "application/json"} if data is not None else {}
    request = urllib.request.Request(server.url + path, data=data, headers={**kind, **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def query(name: str, route: str = FILE) -> str:
    return f"{route}?{urllib.parse.urlencode({'name': name})}"


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_list_download_delete(classic_server: Any, files: dict[str, Path], prefix: str) -> None:
    status, answer = classic_server.request(prefix + LIST)
    listed = {entry["name"]: entry["bytes"] for entry in answer["calibrations"]}
    assert status == 200 and answer["version"]
    assert listed == {"kept": 1_100_000, "sub/two": 1_100_000}
    for name in listed:
        status, data = ask(classic_server, prefix + query(name))
        assert status == 200 and data == files[name].read_bytes()
    assert ask(classic_server, prefix + DELETE, {"name": "sub/two"})[0] == 200
    assert not files["sub/two"].exists() and files["kept"].exists()
    assert ask(classic_server, prefix + query("sub/two"))[0] == 404
    assert ask(classic_server, prefix + DELETE, {"name": "sub/two"})[0] == 404


def test_influence_goes_with_its_calibration(classic_server: Any, files: dict[str, Path]) -> None:
    _, answer = classic_server.request(LIST)
    assert {entry["name"]: entry["influence"] for entry in answer["calibrations"]} == {"kept": True, "sub/two": False}
    assert ask(classic_server, query("kept", INFLUENCE)) == (200, files["influence"].read_bytes())
    status, data = ask(classic_server, query("sub/two", INFLUENCE))
    assert status == 404 and b"No influence was measured" in data, "a link to the outside is not followed"
    assert ask(classic_server, DELETE, {"name": "kept"})[0] == 200
    assert not files["influence"].exists() and not files["kept"].exists()
    assert ask(classic_server, query("kept", INFLUENCE))[0] == 404
    assert ask(classic_server, DELETE, {"name": "sub/two"})[0] == 200
    assert files["far influence"].exists()
    files["kept"].write_bytes(b"statistics")
    _, answer = classic_server.request(LIST)
    assert [entry["influence"] for entry in answer["calibrations"]] == [False]


@pytest.mark.parametrize("name", [*HOSTILE, "file-link", "folder-link/far", "absent"])
def test_nothing_outside_is_read_or_deleted(classic_server: Any, files: dict[str, Path], name: str) -> None:
    for route in (FILE, INFLUENCE):
        status, data = ask(classic_server, query(name, route))
        assert status in (400, 404) and set(json.loads(data)) == {"error"}
        assert b"statistics" not in data
    assert ask(classic_server, DELETE, {"name": name})[0] in (400, 404, 413)
    assert all(path.is_file() for path in files.values())
    folder = classic_server.base / "models" / "nvfp4_calibration"
    assert (folder / "file-link.safetensors").is_symlink()


def test_a_name_that_no_file_system_encodes_is_not_found(classic_server: Any, files: dict[str, Path]) -> None:
    for name in ("\ud800", "a\ud800/b"):
        assert ask(classic_server, DELETE, {"name": name})[0] in (400, 404)


@pytest.mark.parametrize("path", ["/nvfp4_studio/calibrations/..%2Fsecret", "/nvfp4_studio/calibrations/%2e%2e/kept"])
def test_names_in_the_path_are_no_route(classic_server: Any, files: dict[str, Path], path: str) -> None:
    assert ask(classic_server, path)[0] in (404, 405)


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b'{"name": "kept"}', "text/plain", 415),
        (b"name=kept", "application/x-www-form-urlencoded", 415),
        (b"{", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"[" * 4000, "application/json", 400),
        (b'["kept"]', "application/json", 400),
        (b'{"name": 5}', "application/json", 400),
        (b'{"name": ["kept"]}', "application/json", 400),
        (b'{"name": "kept", "more": "' + b"x" * 5000 + b'"}', "application/json", 413),
        (b"\0" * 3_000_000, "application/json", 413),
    ],
)
def test_odd_bodies_delete_nothing(
    classic_server: Any, files: dict[str, Path], body: bytes, content_type: str, status: int
) -> None:
    assert classic_server.request(DELETE, body, content_type)[0] == status
    assert files["kept"].is_file()


def test_deleting_is_no_get(classic_server: Any, files: dict[str, Path]) -> None:
    assert ask(classic_server, f"{DELETE}?name=kept")[0] in (404, 405)
    assert files["kept"].is_file()


@pytest.fixture(scope="module")
def keeping(open_server: Any) -> Iterator[Any]:
    """The server without an origin check of its own, with a calibration."""
    kept = open_server.base / "models" / "nvfp4_calibration" / "kept.safetensors"
    kept.parent.mkdir(exist_ok=True)
    kept.write_bytes(b"statistics")
    yield open_server
    kept.unlink()


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:1"},
    ],
)
def test_other_sites_are_refused_even_with_cors(keeping: Any, headers: dict[str, str]) -> None:
    assert ask(keeping, LIST, headers=headers)[0] == 403
    assert ask(keeping, query("kept"), headers=headers)[0] == 403
    assert ask(keeping, query("kept", INFLUENCE), headers=headers)[0] == 403
    assert ask(keeping, DELETE, {"name": "kept"}, headers)[0] == 403
    assert ask(keeping, "/nvfp4_studio/conversion_token", {"node": "5"}, headers)[0] == 403
    assert (keeping.base / "models" / "nvfp4_calibration" / "kept.safetensors").is_file()


def test_its_own_page_and_programs_are_served(keeping: Any) -> None:
    host = keeping.url.removeprefix("http://")
    for headers in ({}, {"Origin": f"http://{host}"}, {"Sec-Fetch-Site": "same-origin", "Origin": "https://proxied"}):
        assert ask(keeping, query("kept"), headers=headers) == (200, b"statistics")
