"""Measured sensitivities, and the budgets that they allow."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nvfp4_studio.converters.writing.journal import lock, open_private
from nvfp4_studio.tests.server.studio.asking import (
    AIO,
    FLUX,
    get,
    picture,
    post,
    sampling_prompt,
)


@pytest.fixture(scope="module")
def measured(server: Any) -> str:
    """A sensitivity of the all-in-one file, measured by its node on inputs that a sampling kept."""
    entry = server.run(sampling_prompt(1))
    assert entry["status"]["status_str"] == "success", entry["status"]
    entry = server.run(sensitivity_prompt(server.token("5")), targets=["5"])
    assert entry["status"]["status_str"] == "success", entry["status"]
    assert "layers measured in" in entry["outputs"]["5"]["nvfp4_status"][0]
    return "kept-rows"


def sensitivity_prompt(token: str | None = None, **inputs: Any) -> dict[str, Any]:
    asked = {
        "source": AIO, "calibration": "kept-rows", "name": "", "formats": "usual", "input_scale": "p99.9",
        "timesteps": "uniform", "kernels": "auto", "overwrite": False, **inputs,
    }  # fmt: skip
    return {"5": {"class_type": "NVFP4Sensitivity", "inputs": asked | ({"conversion_token": token} if token else {})}}


def test_a_sensitivity_is_listed_drawn_and_gives_measured_errors(server: Any, measured: str) -> None:
    (found,) = [entry for entry in get(server, "sensitivities")["sensitivities"] if entry["name"] == measured]
    assert found["source"] == "aio.safetensors" and found["problem"] is None and found["layers"] > 10
    assert picture(server, f"sensitivity_plot?name={measured}")[2][:4] == b"\x89PNG"
    plan = post(server, "plan", source=AIO, calibration=measured, sensitivity=measured)
    changed = [layer for layer in plan["layers"] if layer["action"] == "quantize" and layer["allowed"]]
    assert changed and sum(layer["predicted"]["measured"] for layer in changed) > len(changed) / 2
    gained = post(server, "plan", source=AIO, calibration=measured, sensitivity=measured, gain=True)
    known = [{layer["module"]: layer["predicted"]["measured"] for layer in found["layers"]} for found in (plan, gained)]
    assert known[0] == known[1], "a gain takes nothing from what was measured"
    status, answer = server.request("/nvfp4_studio/plan", {"source": FLUX, "sensitivity": measured})
    assert status == 400 and "has other weights" in answer["error"]


def test_a_budget_is_kept_drawn_as_a_curve_and_saved_as_a_recipe(server: Any, measured: str) -> None:
    asked = {"source": AIO, "calibration": measured, "sensitivity": measured}
    free = post(server, "plan", **asked)
    limit = int((free["output_bytes"] + free["source_bytes"]) / 2)
    plan = post(server, "plan", **asked, budget=f"size<={limit / 1e6:.3f}MB")
    assert plan["output_bytes"] <= limit and plan["curve"]["by_size"] and plan["curve"]["recipes"]
    assert plan["speed"]["basis"] == "few", "a budget is kept by the rows that were measured, and the plan says so"
    assert plan["summary"]["pinned"] == 0 and not any(layer["pinned"] for layer in plan["layers"])
    post(server, "recipes/save", name="budget", plan={**asked, "budget": f"size<={limit / 1e6:.3f}MB"})
    again = post(server, "plan", source=AIO, calibration=measured, recipe="my/budget")
    assert again["formats"] == plan["formats"]
    for budget, said in (("size<=1", "choose a sensitivity"), ("size>>1GB", "is no budget")):
        fields = {"source": AIO, "budget": budget} if "size<=" in budget else {**asked, "budget": budget}
        status, answer = server.request("/nvfp4_studio/plan", fields)
        assert status == 400 and said in answer["error"]
    status, answer = server.request("/nvfp4_studio/plan", {**asked, "budget": "size<=1", "rounding": "nearest"})
    assert status == 400 and "set rounding to auto" in answer["error"]
    for alone in ({"gain": True}, {"pre_quant": "search"}):
        status, answer = server.request("/nvfp4_studio/plan", {**asked, "budget": "size<=1", **alone})
        assert status == 400 and "set pre_quant to off and gain off" in answer["error"]


def test_the_sensitivity_node_measures_for_its_button_only(server: Any, measured: str) -> None:
    entry = server.run(sensitivity_prompt(name="ordinary"))
    assert "does not measure" in entry["outputs"]["5"]["nvfp4_status"][0]
    assert "ordinary" not in [found["name"] for found in get(server, "sensitivities")["sensitivities"]]
    entry = server.run(sensitivity_prompt(server.token("5")), targets=["5"])
    assert "already" in json.dumps(entry["status"])
    entry = server.run(sensitivity_prompt(server.token("5"), calibration="none", name="x"), targets=["5"])
    assert "choose one with detail curvature" in json.dumps(entry["status"])
    for name in ("../escaped", "/tmp/x", "nul"):
        assert server.queue(sensitivity_prompt(server.token("5"), name=name), targets=["5"])[0] == 400


def test_a_sensitivity_is_deleted_with_what_was_kept_of_it_unless_it_is_being_measured(
    server: Any, measured: str
) -> None:
    path = server.base / "models" / "nvfp4_sensitivity" / f"{measured}.json"
    unfinished = path.with_name(f".{path.name}.part")
    other = path.with_name("sub") / "other.json"
    other.parent.mkdir(exist_ok=True)
    other.write_bytes(path.read_bytes())
    with open_private(unfinished) as held:
        assert lock(held), "as a measurement holds it, of this server or of another program"
        status, answer = server.request("/nvfp4_studio/sensitivities/delete", {"name": measured})
        assert (status, answer["error"]) == (400, f"{measured} is being measured; wait for it, or cancel it first.")
        assert path.exists() and unfinished.exists()
    assert post(server, "sensitivities/delete", name=measured) == {"deleted": measured}
    assert not path.exists() and not unfinished.exists()
    assert server.request("/nvfp4_studio/sensitivities/delete", {"name": measured})[0] == 404
    assert server.request(f"/nvfp4_studio/sensitivity_plot?name={measured}")[0] == 404
    listed = [entry["name"] for entry in get(server, "sensitivities")["sensitivities"]]
    assert measured not in listed and "sub/other" in listed
    assert post(server, "sensitivities/delete", name="sub/other") == {"deleted": "sub/other"}
    assert not other.exists()
