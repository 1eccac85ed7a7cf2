"""Tables of kernel speeds: what they predict, and that a user's file is checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nvfp4_studio.converters import PlanError
from nvfp4_studio.converters.formats.multiplying import multiplication
from nvfp4_studio.converters.kernels import (
    KernelTable,
    available_tables,
    kernel_of,
    layer_seconds,
    load_table,
    table_from_json,
    timing,
)
from nvfp4_studio.converters.kernels.timing import Timing, table_from_timings

TABLE = KernelTable(
    "t", "GPU", "made up", "2026-11-21", {"bf16": 100.0, "fp8": 200.0, "nvfp4": 800.0}, bandwidth=1000.0
)
LARGE, ROWS = (12288, 3072), 4096


def seconds(kernel: str, **how: bool) -> float:
    return layer_seconds(TABLE, kernel, LARGE, ROWS, LARGE[0] * LARGE[1], **how)


def test_large_layers_take_as_long_as_their_operations_and_the_rounding_of_their_input() -> None:
    operations = 2 * ROWS * LARGE[0] * LARGE[1]
    assert seconds("bf16") == pytest.approx(operations / 100e12)
    rounding = ROWS * LARGE[1] * (2 + 1) / 1e12
    assert seconds("fp8") == pytest.approx(operations / 200e12 + rounding)
    assert seconds("nvfp4", dynamic=True) - seconds("nvfp4") == pytest.approx(ROWS * LARGE[1] * 2 / 1e12)
    assert seconds("fp8") / seconds("nvfp4") > 3


def test_small_layers_take_as_long_as_their_weights_take_to_read() -> None:
    whole = layer_seconds(TABLE, "bf16", LARGE, 1, 2 * LARGE[0] * LARGE[1])
    half = layer_seconds(TABLE, "bf16", LARGE, 1, LARGE[0] * LARGE[1])
    assert whole == pytest.approx(2 * half, rel=0.01)


def test_what_a_gpu_cannot_multiply_is_decoded() -> None:
    assert seconds("int8") == seconds("bf16", decoded=True) > seconds("bf16")
    size = LARGE[0] * LARGE[1]
    assert seconds("int8") - seconds("bf16") == pytest.approx((size + 2 * size) / 1e12)
    # A single row: the stored weight is read, BF16 written and read again.
    assert layer_seconds(TABLE, "int8", LARGE, 1, size) == pytest.approx((size + 2 * 2 * size) / 1e12, rel=0.01)


def test_a_measured_rate_of_rounding_comes_before_the_bandwidth() -> None:
    slow = KernelTable("t", "GPU", "s", "d", TABLE.tflops, TABLE.bandwidth, True, {"fp8": 10.0})
    extra = ROWS * LARGE[1] * 2 / 10e9 - ROWS * LARGE[1] * 3 / 1e12
    assert layer_seconds(slow, "fp8", LARGE, ROWS, 1) - layer_seconds(TABLE, "fp8", LARGE, ROWS, 1) == pytest.approx(
        extra
    )


def test_formats_have_their_kernels() -> None:
    assert [kernel_of(name, False) for name in ("nvfp4", "float8_e4m3fn", "asym_w4a8_int8", "bfloat16")] == [
        "nvfp4",
        "fp8",
        "int8",
        "bf16",
    ]
    assert kernel_of("nvfp4", True) == "bf16"


def test_built_in_tables_are_sound() -> None:
    tables = available_tables()
    assert {"rtx-5090", "rtx-5080", "rtx-5070-ti", "rtx-pro-6000", "b200", "rtx-4090"} == tables.keys()
    for name, table in tables.items():
        assert table.name == name and not table.measured and table.source and table.date
        assert ("nvfp4" in table.tflops) == (name != "rtx-4090")
        assert table.tflops["fp8"] == pytest.approx(2 * table.tflops["bf16"], rel=0.01)


def test_a_file_of_ones_own_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(TABLE.to_json()))
    assert load_table(str(path)) == TABLE


@pytest.mark.parametrize(
    "damage",
    [
        {"tflops": {"fp8": 1.0}},
        {"tflops": {"bf16": 1.0, "fp8": 0}},
        {"tflops": {"bf16": 1.0, "fp8": 1.0, "int3": 1.0}},
        {"tflops": []},
        {"bandwidth": "fast"},
        {"bandwidth": 1e-320},
        {"tflops": {"bf16": 1e-320, "fp8": 1.0}},
        {"bandwidth": float("inf")},
        {"quantizing": {"fp8": -1}},
        {"name": ""},
        {"gpu": 7},
        {"measured": "yes"},
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(damage: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**TABLE.to_json(), **damage}))
    with pytest.raises(PlanError, match="mine.json"):
        load_table(str(path))


@pytest.mark.parametrize("content", ["", "[]", "{", "null", " " * 70_000])
def test_no_table_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(content)
    for name in (str(path), str(tmp_path / "none.json"), "rtx-9090"):
        with pytest.raises(PlanError):
            load_table(name)


def test_a_table_is_all_operations_over_all_their_time() -> None:
    timings = [
        Timing("bf16", (1000, 1000, 1000), 2e-3),
        Timing("bf16", (1000, 3000, 1000), 2e-3),
        Timing("fp8", (1000, 1000, 1000), 1e-3, 1e-4),
        Timing("int8", (1000, 1000, 1000), 1e-3, 5e-4, True),
    ]
    table = table_from_timings("mine", "GPU", "2026-11-21", timings, 10**9, 0.002)
    assert table.tflops == {"bf16": 2.0, "fp8": 2.0, "int8": 4.0}
    assert table.quantizing == {"fp8": 20.0, "int8": 4.0}
    assert (table.bandwidth, table.measured) == (1000.0, True)
    assert table_from_json(json.loads(json.dumps(table.to_json())), "t") == table


def test_rounding_that_seems_to_take_longer_than_the_whole_is_noise() -> None:
    table = table_from_timings("mine", "GPU", "d", [Timing("int8", (1000, 1000, 1000), 1e-3, 2e-3, True)], 10**9, 0.002)
    assert table.tflops == {"int8": 20.0}


@pytest.mark.parametrize("kind", ["bf16", "fp8", "int8"])
def test_works_are_those_of_a_layer(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("comfy_kitchen")
    monkeypatch.setattr(timing, "SECONDS", 1e-6)
    found = timing.time_one(kind, (32, 64, 64), torch.device("cpu"))
    assert found.multiply > 0 and (found.quantize > 0) == (kind != "bf16")
    generator = torch.Generator().manual_seed(0)
    values, weight = (torch.randn(32, 64, generator=generator).bfloat16() for _ in range(2))
    product = multiplication(kind, values, weight).multiply()
    exact = values.float() @ weight.float().T
    assert float((product.float() - exact).norm() / exact.norm()) < 0.06


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_gpu_nothing_is_measured() -> None:
    with pytest.raises(PlanError, match="no CUDA device"):
        timing.measure_table("mine")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_measured() -> None:
    table = timing.measure_table("mine")
    assert table.measured and table.tflops["bf16"] > 1 and table.bandwidth > 10
