"""What nobody may do through the studio's routes."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from nvfp4_studio.tests.server.studio.asking import (
    FLUX,
    calibrate,
    converted,
)

HOSTILE = [
    "..",
    "../secret.safetensors",
    "..%2Fsecret.safetensors",
    "sub/../../../secret.safetensors",
    "..\\..\\secret.safetensors",
    "/etc/passwd",
    "//host/share/x.safetensors",
    "\\\\host\\share\\x.safetensors",
    "\\\\?\\C:\\x.safetensors",
    "C:\\x.safetensors",
    "nul",
    "COM1.safetensors",
    "file-link.safetensors",
    "folder-link/far.safetensors",
    "kept.safetensors:stream",
    "kept\0.safetensors",
    "ke\npt.safetensors",
    "kept.safetensors.",
    "",
    "x" * 201,
    "\U0001f98a" * 150 + ".safetensors",
    "\ud800.safetensors",
]
BY_ID = ("source", "conversions/discard", "result", "results/delete", "recipes/delete")
BY_NAME = ("calibration", "calibrations/delete", "sensitivities/delete")
LINKED = (
    "models/diffusion_models",
    "models/nvfp4_calibration",
    "models/nvfp4_recipes",
    "models/nvfp4_sensitivity",
    "output/diffusion_models",
)
"""Folders in which links lie that lead out of them."""


@pytest.fixture(scope="module")
def outside(server: Any) -> Iterator[dict[Path, bytes]]:
    """Files that nobody may read or delete, with links to them in every folder, and a result that stays."""
    far = server.base / "outside"
    far.mkdir()
    result = server.base / "output" / converted(server, "guarded")
    for name in ("seen", "one"):
        calibrate(server, name)
    files = [
        far / "far.safetensors",
        far / "far.json",
        server.base / "secret.safetensors",
        server.base / "models" / "secret.json",
    ]
    for path in files:
        path.write_bytes(result.read_bytes())
    for folder in LINKED:
        (server.base / folder).mkdir(exist_ok=True)
        (server.base / folder / "file-link.safetensors").symlink_to(files[0])
        (server.base / folder / "file-link.json").symlink_to(files[1])
        (server.base / folder / "folder-link").symlink_to(far, target_is_directory=True)
    kept = [*files, result, server.base / "models" / FLUX, server.base / "models/nvfp4_calibration/seen.safetensors"]
    yield {path: path.read_bytes() for path in kept}
    for folder in LINKED:
        for name in ("file-link.safetensors", "file-link.json", "folder-link"):
            (server.base / folder / name).unlink()


def ids(name: str) -> list[str]:
    return [name, f"diffusion_models/{name}", f"checkpoints/{name}", f"my/{name.removesuffix('.safetensors')}"]


def untouched(outside: dict[Path, bytes]) -> bool:
    return all(path.read_bytes() == data for path, data in outside.items())


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_outside_is_named_read_or_deleted(server: Any, outside: dict[Path, bytes], name: str) -> None:
    bodies = [(path, {"id": identity}) for path in BY_ID for identity in ids(name)]
    bodies += [(path, {"name": name.removesuffix(".safetensors")}) for path in BY_NAME]
    bodies += [("plan", {"source": identity}) for identity in ids(name)]
    bodies += [("plan", {"source": FLUX, field: name}) for field in ("recipe", "calibration", "sensitivity") if name]
    bodies += [("calibrations/merge", {"names": ["seen", name], "into": "new"})]
    for path, body in bodies:
        status, answer = server.request(f"/nvfp4_studio/{path}", body)
        assert 400 <= status < 500 and set(answer) == {"error"}, (path, body, answer)
        assert str(server.base) not in answer["error"], (path, body, answer)
    for query in (
        f"calibration_plot?name={quote(name, errors='replace')}",
        f"sensitivity_plot?name={quote(name, errors='replace')}",
        *(f"result_plot?id={quote(id, errors='replace')}&name=map" for id in ids(name)),
    ):
        assert 400 <= server.request(f"/nvfp4_studio/{query}")[0] < 500, query
    assert untouched(outside)


@pytest.mark.parametrize(
    "name", [name for name in HOSTILE if name not in ("..%2Fsecret.safetensors", "file-link.safetensors")]
)
def test_nothing_outside_is_written(server: Any, outside: dict[Path, bytes], name: str) -> None:
    before = sorted(path for path in server.base.rglob("*.json")) + sorted(server.base.rglob("*.safetensors"))
    for path, body in (
        ("recipes/save", {"name": name, "plan": {"source": FLUX}}),
        ("recipes/save", {"name": name, "plan": {"source": FLUX}, "overwrite": True}),
        ("calibrations/merge", {"names": ["seen", "one"], "into": name}),
    ):
        assert 400 <= server.request(f"/nvfp4_studio/{path}", body)[0] < 500, (path, body)
    assert sorted(path for path in server.base.rglob("*.json")) + sorted(server.base.rglob("*.safetensors")) == before
    assert untouched(outside)


def test_a_link_is_never_written_through(server: Any, outside: dict[Path, bytes]) -> None:
    body = {"name": "file-link", "plan": {"source": FLUX}, "overwrite": True}
    assert server.request("/nvfp4_studio/recipes/save", body)[0] in (400, 404)
    assert untouched(outside)


def test_files_that_this_pack_did_not_convert_are_no_results(server: Any, outside: dict[Path, bytes]) -> None:
    foreign = server.base / "output" / "diffusion_models" / "foreign.safetensors"
    foreign.write_bytes((server.base / "models" / FLUX).read_bytes())
    for path in ("result", "results/delete"):
        assert server.request(f"/nvfp4_studio/{path}", {"id": "diffusion_models/foreign.safetensors"})[0] == 404
        assert server.request(f"/nvfp4_studio/{path}", {"id": FLUX})[0] == 404
    assert foreign.exists() and untouched(outside)
    foreign.unlink()


POSTS = (*BY_ID, *BY_NAME, "plan", "recipes/save", "calibrations/merge")


@pytest.mark.parametrize("path", POSTS)
def test_malformed_bodies_are_refused(server: Any, outside: dict[Path, bytes], path: str) -> None:
    good = json.dumps({"id": "diffusion_models/guarded.safetensors", "name": "seen", "source": FLUX}).encode()
    for body, kind, wanted in (
        (good, "text/plain", {415}),
        (good, "application/x-www-form-urlencoded", {415}),
        (good, "multipart/form-data; boundary=x", {415}),
        (b"{", "application/json", {400}),
        (b"[]", "application/json", {400}),
        (b"\xff\xfe", "application/json", {400}),
        (b"[" * 4000, "application/json", {400}),
        (b"{}", "application/json", {400}),
        (b'{"id": 7, "name": {}, "source": []}', "application/json", {400}),
        (b'{"id": "' + b"x" * 100_000 + b'"}', "application/json", {413}),
    ):
        status, answer = server.request(f"/nvfp4_studio/{path}", body, kind)
        assert status in wanted and set(answer) == {"error"}, (body[:40], kind, answer)
    assert server.request(f"/nvfp4_studio/{path}")[0] in (404, 405)
    assert untouched(outside)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_of_other_sites_are_refused(server: Any, outside: dict[Path, bytes], headers: dict[str, str]) -> None:
    bodies = {"id": "diffusion_models/guarded.safetensors", "name": "seen", "source": FLUX}
    for path in ("sources", "recipes", "conversions", "results", "sensitivities", "calibrations", *POSTS):
        data = json.dumps(bodies).encode() if path in POSTS else None
        kind = {"Content-Type": "application/json"} if data else {}
        request = urllib.request.Request(f"{server.url}/nvfp4_studio/{path}", data=data, headers={**kind, **headers})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=60)
        assert refused.value.code == 403, path
    assert untouched(outside)


@pytest.mark.parametrize(
    "fields",
    [
        {"pins": []},
        {"pins": {"x": 7}},
        {"pins": {"": "keep"}},
        {"pins": {"x" * 2000: "keep"}},
        {"budget": 7},
        {"budget": "size<=" + "9" * 200},
        {"input_scale": ["p99.9"]},
        {"layout": {"a": 1}},
        {"calibration": 7},
        {"sensitivity": [1]},
        {"recipe": {"rules": []}},
    ],
)
def test_odd_fields_of_a_plan_are_refused(server: Any, fields: dict[str, Any]) -> None:
    status, answer = server.request("/nvfp4_studio/plan", {"source": FLUX, **fields})
    assert status == 400 and set(answer) == {"error"}
