"""Converted files, with reports of this pack and of anybody else."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nvfp4_studio.tests.server.studio.asking import (
    FLUX,
    converted,
    get,
    picture,
    post,
)


def test_results_are_listed_reported_drawn_and_deleted(server: Any) -> None:
    kept, gone = converted(server, "kept"), converted(server, "gone")
    found = {entry["id"]: entry for entry in get(server, "results")["results"]}
    assert {kept, gone} <= found.keys() and FLUX not in found
    entry = found[kept]
    assert entry["source"] == "flux.safetensors" and entry["family"] == "flux" and entry["formats"]["nvfp4"] > 0
    assert entry["mean_sqnr_db"] > 15 and entry["worst_layer"]
    report = post(server, "result", id=kept)
    loader = {"class_type": "UNETLoader", "widget": "unet_name", "value": "kept.safetensors"}
    assert entry["loader"] == report["loader"] == loader
    assert report["loader"]["value"] in server.options("UNETLoader", "unet_name")
    assert report["problems"] == [] and len(report["plan"]["layers"]) > 10 and {"map", "size"} <= set(report["plots"])
    for name in report["plots"]:
        assert picture(server, f"result_plot?id={kept}&name={name}")[1:2] == ("image/png",)
    output = server.base / "output" / "diffusion_models"
    (output / "kept.report-map.png").unlink()
    assert picture(server, f"result_plot?id={kept}&name=map")[2][:4] == b"\x89PNG"
    assert post(server, "results/delete", id=gone) == {"deleted": gone}
    assert [path.name for path in output.iterdir() if path.name.startswith("gone")] == []
    assert gone not in [entry["id"] for entry in get(server, "results")["results"]]
    assert "gone.safetensors" not in server.options("UNETLoader", "unet_name")
    assert server.request("/nvfp4_studio/result", {"id": gone})[0] == 404


def test_a_result_without_its_report_is_still_told_and_usable(server: Any) -> None:
    result = converted(server, "lonely")
    for extra in (server.base / "output" / "diffusion_models").glob("lonely.report*"):
        extra.unlink()
    report = post(server, "result", id=result)
    assert report["loader"]["value"] == "lonely.safetensors" and "missing" in report["plan"]["warnings"][0]
    assert report["summary"]["output_bytes"] > 0 and report["plots"] == []
    assert server.request(f"/nvfp4_studio/result_plot?id={result}&name=map")[0] == 404


@pytest.fixture
def reported(server: Any) -> Iterator[Callable[..., str]]:
    """A function that puts another report beside a copy of a converted file, and gives the file's id."""
    output = server.base / "output" / "diffusion_models"
    good = output / "reported.safetensors"
    if not good.exists():
        converted(server, "reported")
    copy, report = output / "claimed.safetensors", output / "claimed.report.json"

    def put(text: str) -> str:
        copy.write_bytes(good.read_bytes())
        report.unlink(missing_ok=True)
        report.write_text(text)
        return "diffusion_models/claimed.safetensors"

    yield put
    for path in (copy, report):
        path.unlink(missing_ok=True)


def strict_json(server: Any, path: str, **body: Any) -> Any:
    """An answer as a browser reads it: NaN and Infinity are no JSON."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(
        f"{server.url}/nvfp4_studio/{path}", data=data, headers={"Content-Type": "application/json"} if data else {}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read(), parse_constant=refuse)


LAYER = '{"name": "a.0.b", "module": "a.0.b", "format": "nvfp4", "error": {"sqnr_db": 20}}'


@pytest.mark.parametrize(
    ("summary", "plan"),
    [
        ('{"mean_sqnr_db": NaN, "worst_sqnr_db": 1e999}', f'{{"layers": [{LAYER}]}}'),
        ("{}", f'{{"layers": [{LAYER}], "formats": {"[" * 900 + "]" * 900}}}'),
        ("{}", f'{{"layers": [null, 7, {{}}, {LAYER}], "warnings": {{"a": 1}}, "repairs": [7]}}'),
        ("{}", f'{{"layers": [{LAYER}, {LAYER.replace("20", "NaN")}, {LAYER.replace("20", "9" * 400)}]}}'),
        ("{}", f'{{"layers": [{LAYER}, {LAYER.replace("a.0.b", "a.999999.b")}]}}'),
        ("{}", f'{{"layers": [{", ".join(LAYER.replace("a.0.b", f"a.0.b{number}") for number in range(3000))}]}}'),
    ],
)
def test_a_report_that_this_pack_did_not_write_breaks_no_page(
    server: Any, reported: Callable[..., str], summary: str, plan: str
) -> None:
    identity = reported(f'{{"summary": {summary}, "plan": {plan}}}')
    assert identity in [entry["id"] for entry in strict_json(server, "results")["results"]]
    found = strict_json(server, "result", id=identity)["plan"]
    assert all(layer["name"] and layer["format"] == "nvfp4" for layer in found["layers"]) and found["layers"]
    assert found["warnings"] == found["repairs"] == []
    assert server.request(f"/nvfp4_studio/result_plot?id={identity}&name=map")[0] in (200, 404)


def test_a_name_that_no_page_can_ask_for_is_not_listed(server: Any, reported: Callable[..., str]) -> None:
    path = server.base / "output" / reported("{}")
    odd = path.with_name("claimed\u202e.safetensors")
    path.rename(odd)
    listed = [entry["id"] for entry in get(server, "results")["results"]]
    odd.unlink()
    assert "diffusion_models/reported.safetensors" in listed and f"diffusion_models/{odd.name}" not in listed


def test_a_link_as_report_is_neither_read_nor_followed(server: Any, reported: Callable[..., str]) -> None:
    identity = reported("{}")
    report = server.base / "output" / "diffusion_models" / "claimed.report.json"
    far = server.base / "far.json"
    far.write_text('{"summary": {"secret": 1}, "plan": {"layers": []}}')
    report.unlink()
    report.symlink_to(far)
    assert "secret" not in post(server, "result", id=identity)["summary"]
    post(server, "results/delete", id=identity)
    assert far.exists() and not report.is_symlink()


def test_a_folder_with_the_name_of_a_report_stays(server: Any, reported: Callable[..., str]) -> None:
    identity = reported("{}")
    report = server.base / "output" / "diffusion_models" / "claimed.report.json"
    report.unlink()
    report.mkdir()
    post(server, "results/delete", id=identity)
    assert report.is_dir() and identity not in [entry["id"] for entry in get(server, "results")["results"]]
    report.rmdir()
