"""What ComfyUI's server knows of the pack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NODES = (
    "NVFP4Calibrate",
    "NVFP4Convert",
    "NVFP4CalibrationReport",
    "NVFP4Sensitivity",
    "NVFP4Compare",
    "NVFP4CompareImages",
)


@pytest.fixture(scope="module")
def info(classic_server: Any) -> dict[str, Any]:
    status, answer = classic_server.request("/object_info")
    assert status == 200
    return answer


def test_these_are_all_the_nodes_and_all_have_texts(info: dict[str, Any]) -> None:
    mine = {name for name, found in info.items() if found["python_module"] == "custom_nodes.nvfp4-studio"}
    texts = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text("utf-8"))
    assert mine == set(NODES) == set(texts)


@pytest.mark.parametrize("node", NODES)
def test_every_node_is_registered_and_explains_itself(info: dict[str, Any], node: str) -> None:
    found = info[node]
    assert found["category"] == "NVFP4 Studio" and found["description"] and found["search_aliases"]
    inputs = {**found["input"].get("required", {}), **found["input"].get("optional", {})}
    without = [name for name, spec in inputs.items() if not (len(spec) > 1 and spec[1].get("tooltip"))]
    assert inputs and without == []
    assert found["output_tooltips"] == [] or all(found["output_tooltips"])


@pytest.mark.parametrize("node", NODES)
def test_locales_and_help_pages_name_every_input_and_output(info: dict[str, Any], node: str) -> None:
    entry = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text("utf-8"))[node]
    found = info[node]
    inputs = {**found["input"].get("required", {}), **found["input"].get("optional", {})}
    assert entry["display_name"] == found["display_name"] and entry["description"] == found["description"]
    assert list(entry["inputs"]) == list(inputs)
    assert all(value["name"] and value["tooltip"] for value in entry["inputs"].values())
    assert [value["name"] for value in entry.get("outputs", {}).values()] == found["output_name"]
    page = (ROOT / "web" / "docs" / f"{node}.md").read_text("utf-8")
    assert [name for name in inputs if f"| {name} |" not in page] == []


def test_the_pack_loads_without_a_complaint(classic_server: Any, info: dict[str, Any]) -> None:
    log = classic_server.log.read_text("utf-8")
    assert "IMPORT FAILED" not in log and "nvfp4-studio could not be loaded" not in log
    assert {info[node]["python_module"] for node in NODES} == {"custom_nodes.nvfp4-studio"}


def test_the_frontend_gets_script_help_locale_and_workflow(classic_server: Any) -> None:
    scripts = classic_server.request("/extensions")[1]
    mine = [path for path in scripts if "nvfp4" in path]
    assert sorted(mine) == sorted(set(mine)) and "/extensions/nvfp4-studio/nvfp4_studio.js" in mine
    assert classic_server.request("/extensions/nvfp4-studio/docs/NVFP4Convert.md")[1].startswith("# NVFP4 Convert")
    assert set(classic_server.request("/i18n")[1]["en"]["nodeDefs"]) >= set(NODES)
    assert "nvfp4_calibrate_and_convert" in classic_server.request("/workflow_templates")[1]["nvfp4-studio"]


def test_the_calibration_folder_is_known(classic_server: Any) -> None:
    assert "nvfp4_calibration" in classic_server.request("/models")[1]


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_a_token_is_given_for_an_execution_id(classic_server: Any, prefix: str) -> None:
    for node in ("5", "1:2:5"):
        status, answer = classic_server.request(f"{prefix}/nvfp4_studio/conversion_token", {"node": node})
        assert status == 200 and len(answer["token"]) >= 32


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        ({"node": "5"}, "text/plain", 415),
        (b"node=5", "application/x-www-form-urlencoded", 415),
        (b"{", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        ([], "application/json", 400),
        ({"node": 5}, "application/json", 400),
        ({"node": "../../etc/passwd"}, "application/json", 400),
        ({"node": "5\n"}, "application/json", 400),
        ({"node": "1" * 100}, "application/json", 400),
    ],
)
def test_the_route_takes_json_ids_only(classic_server: Any, body: object, content_type: str, status: int) -> None:
    assert classic_server.request("/nvfp4_studio/conversion_token", body, content_type)[0] == status


def test_the_route_is_no_get(classic_server: Any) -> None:
    assert classic_server.request("/nvfp4_studio/conversion_token")[0] in (404, 405)
