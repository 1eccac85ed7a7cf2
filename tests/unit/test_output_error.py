"""The result of benchmarks/output_error.py: what it says of ours and others, and that its table can be made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nvfp4_studio.benchmarks.outputs.table import OURS, table
from nvfp4_studio.converters.rounding import METHODS

ROOT = Path(__file__).resolve().parent.parent.parent
RESULT = json.loads((ROOT / "benchmarks" / "results" / "output_error.json").read_text("utf-8"))
MODES = ("w4a4_db", "w4a16_db")
MODELS = pytest.mark.parametrize("model", RESULT["models"])


def ways(model: str, ours: bool) -> dict[str, dict[str, Any]]:
    entries = RESULT["models"][model]["ways"]
    return {
        f"{'' if ours else entry['name'] + ' '}{entry['variant']}": entry
        for entry in entries
        if (entry["name"] == OURS) == ours
    }


@MODELS
def test_all_methods_and_all_others_are_there(model: str) -> None:
    assert set(METHODS) <= ways(model, True).keys()
    assert len({name.split()[0] for name in ways(model, False)}) == 3


@MODELS
def test_nothing_is_closer_than_gptq(model: str) -> None:
    """With quantized inputs and with weights alone; a pre_quant_scale is better still where inputs are quantized."""
    mine = ways(model, True)
    for name, entry in ways(model, False).items():
        for mode in MODES:
            assert "skipped" in entry or entry[mode] < mine["gptq"][mode] - 1, name
    assert mine["gptq + pre_quant_scale"]["w4a4_db"] > mine["gptq"]["w4a4_db"]


@MODELS
def test_nearest_is_everybodys_nearest(model: str) -> None:
    mine, others = ways(model, True)["nearest"], ways(model, False)
    for name in ("NVIDIA Model Optimizer NVFP4 default", "comfy-dit-quantizer -m amax", "convert_to_quant --simple"):
        for mode in MODES:
            assert others[name][mode] == pytest.approx(mine[mode], abs=0.05)


def test_a_way_that_was_not_measured_has_its_reason_in_the_table() -> None:
    changed = json.loads(json.dumps(RESULT))
    for found in changed["models"].values():
        found["ways"][-1] = {key: found["ways"][-1][key] for key in ("name", "version", "variant", "looks_at")} | {
            "skipped": "it does not install here"
        }
    lines = table(changed).splitlines()
    assert "not measured: it does not install here" in lines[-1] and lines[-1].endswith("| – |")
    assert len(lines) == 4 + len(next(iter(RESULT["models"].values()))["ways"])
