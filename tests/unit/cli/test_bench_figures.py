"""What a comparison's generations come to, and what is said about the machine."""

from __future__ import annotations

import json
import math
import statistics
from typing import Any

import pytest

from nvfp4_studio.cli.benching.figures import drift, model_figures, speedup
from nvfp4_studio.cli.benching.hardware import described_hardware
from nvfp4_studio.cli.benching.memory import used
from nvfp4_studio.cli.benching.timing import ServedFromCache, read_generation
from nvfp4_studio.cli.servers.errors import JobFailed


def entry(model: int, picture: int, seconds: float, *, size: int = 3, images: int = 1, **more: Any) -> dict[str, Any]:
    """A generation; the first of each block of `size` is cold."""
    return {
        "model": model,
        "picture": picture,
        "block": (picture - 1) // size + 1,
        "kind": "cold" if (picture - 1) % size == 0 else "warm",
        "seconds": seconds,
        "pictures": ["x.png"] * images,
        "films": 0,
        "reloaded": False,
        "memory": {"ram": 100 * picture},
        **more,
    }


def run_of(model: int, times: list[float], **more: Any) -> list[dict[str, Any]]:
    return [entry(model, picture, seconds, **more) for picture, seconds in enumerate(times, 1)]


def test_cold_starts_are_no_warm_times() -> None:
    found = model_figures(run_of(0, [9.0, 1.0, 3.0, 11.0, 2.0, 2.0]), [])
    assert found["cold_start_s"]["count"] == 2 and found["cold_start_s"]["median"] == 10.0
    times = found["seconds_per_image"]
    assert (times["count"], times["mean"], times["median"], times["least"], times["most"]) == (4, 2.0, 2.0, 1.0, 3.0)
    assert times["stdev"] == pytest.approx(statistics.stdev([1, 3, 2, 2])) and found["load_s"] == 8.0
    assert found["peak_bytes"] == {"ram": 600}


def test_times_are_per_image_of_a_batch() -> None:
    found = model_figures(run_of(0, [9.0, 4.0, 4.0], images=4), [])
    assert found["seconds_per_image"]["mean"] == 1.0 and found["images"] == 12 and found["load_s"] == 5.0


def test_a_machine_that_drifts_does_not_change_the_speed_up() -> None:
    slow, fast = [5.0, 2.0, 2.2, 5.0, 2.1, 1.9], [4.0, 1.0, 1.1, 4.0, 1.05, 0.95]
    drifting = [1, 1, 1, 3, 3, 3]
    expected = speedup(run_of(0, slow), run_of(1, fast))
    found = speedup(
        run_of(0, [time * factor for time, factor in zip(slow, drifting, strict=True)]),
        run_of(1, [time * factor for time, factor in zip(fast, drifting, strict=True)]),
    )
    assert expected is not None and found == pytest.approx(expected)
    assert found["times"] == pytest.approx(2.0) and (found["blocks"], found["pairs"]) == (2, 4)
    moved = drift(run_of(0, [time * factor for time, factor in zip(slow, drifting, strict=True)]))
    assert moved is not None and moved["slowest_over_fastest"] == pytest.approx(3 * 4.0 / 4.2)


def test_a_single_block_has_no_interval() -> None:
    found = speedup(run_of(0, [5.0, 2.0, 2.0]), run_of(1, [5.0, 1.0, 1.0]))
    assert found is not None and found["times"] == 2.0 and found["low"] is None and found["high"] is None
    assert speedup(run_of(0, [5.0]), run_of(1, [5.0])) is None


def test_a_time_too_short_for_the_servers_clock_leaves_the_others_of_its_block() -> None:
    found = speedup(run_of(0, [5.0, 2.0, 0.0]), run_of(1, [5.0, 1.0, 0.0]))
    assert found is not None and (found["times"], found["blocks"], found["pairs"]) == (2.0, 1, 1)


def test_only_pictures_that_both_made_are_compared_in_time() -> None:
    theirs, ours = run_of(0, [5.0, 2.0, 8.0]), run_of(1, [5.0, 1.0, 1.0])
    theirs[2] = {"model": 0, "picture": 3, "block": 1, "failed": "out of memory"}
    found = speedup(theirs, ours)
    assert found is not None and found["times"] == 2.0 and found["pairs"] == 1
    figures = model_figures(theirs, theirs)
    assert figures["failed"] == 1 and figures["failures"] == [{"picture": 3, "reason": "out of memory"}]


def test_equal_pictures_are_counted_and_have_no_psnr() -> None:
    scores = [
        {"psnr_db": 40.0, "ssim": 0.99, "haarpsi": 0.98, "equal": False},
        {"psnr_db": None, "ssim": 1.0, "haarpsi": 1.0, "equal": True},
        {"psnr_db": 30.0, "ssim": 0.95, "haarpsi": 0.90, "equal": False},
    ]
    made = [entry(1, number, 1.0, scores=one) for number, one in enumerate(scores, 1)]
    found = model_figures(made, run_of(0, [1.0] * 3))["quality"]
    assert (found["pairs"], found["equal"], found["psnr_db"]["mean"], found["psnr_db"]["count"]) == (3, 1, 35.0, 2)
    assert found["psnr_db"]["worst"] == 30.0 and found["psnr_db"]["worst_picture"] == 3
    half = 12.706 * statistics.stdev([40, 30]) / math.sqrt(2)
    assert found["psnr_db"]["low"] == pytest.approx(35 - half, abs=1e-2)
    assert found["ssim"]["count"] == 3


def history(*messages: tuple[str, int, list[str]], outputs: Any = None) -> dict[str, Any]:
    told = [[name, {"timestamp": stamp, "nodes": nodes}] for name, stamp, nodes in messages]
    return {"status": {"messages": told}, "outputs": outputs or {}}


def test_the_servers_own_times_count() -> None:
    outputs = {
        "7": {"images": [{"filename": "b.PNG", "subfolder": "", "type": "temp"}, {"filename": "f.webm"}]},
        "6": {"images": [{"filename": "a.png", "subfolder": "s", "type": "output", "more": 1}]},
    }
    entry = history(
        ("execution_start", 1_000, []),
        ("execution_cached", 1_001, ["1"]),
        ("execution_success", 3_500, []),
        outputs=outputs,
    )
    found = read_generation(entry, frozenset({"5"}))
    assert found.seconds == 2.5 and found.cached == {"1"} and found.others == 1
    assert [picture["filename"] for picture in found.pictures] == ["a.png", "b.PNG"]
    with pytest.raises(ServedFromCache, match="node 1 did not run"):
        read_generation(entry, frozenset({"1"}))


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"status": None},
        history(("execution_start", 1, [])),
        {"status": {"messages": [1, ["x"]]}},
        {"status": {"messages": [[["x"], {"timestamp": 1}]]}},
        history(("execution_start", math.nan, []), ("execution_success", 1, [])),  # type: ignore[arg-type]
        history(("execution_start", 1, []), ("execution_success", 10**400, [])),
    ],
)
def test_a_history_without_times_is_a_failure(broken: dict[str, Any]) -> None:
    with pytest.raises(JobFailed, match="no times"):
        read_generation(broken, frozenset())


def test_a_clock_that_was_set_back_and_endless_outputs_are_failures() -> None:
    with pytest.raises(JobFailed, match="ended 1.500 s before it began"):
        read_generation(history(("execution_start", 2500, []), ("execution_success", 1000, [])), frozenset())
    outputs = {"7": {"images": [{"filename": "a.png"}] * 1001}}
    times = ("execution_start", 1, []), ("execution_cached", 2, 5), ("execution_success", 3, [])
    with pytest.raises(JobFailed, match="has 1001 pictures"):
        read_generation(history(*times, outputs=outputs), frozenset())  # type: ignore[arg-type]


CUDA = {"type": "cuda", "vram_total": 100, "vram_free": 40, "torch_vram_total": 50, "torch_vram_free": 20}


@pytest.mark.parametrize(
    ("name", "nvfp4"),
    [
        ("cuda:0 NVIDIA GeForce RTX 5090 : cudaMallocAsync", True),
        ("cuda:0 NVIDIA RTX PRO 6000 Blackwell Workstation Edition", True),
        ("cuda:0 NVIDIA B200", True),
        ("cuda:0 NVIDIA GeForce RTX 4090", False),
        ("cuda:0 NVIDIA H200", False),
        ("cuda:0 NVIDIA A100-SXM4-80GB", False),
        ("cuda:0 NVIDIA RTX 5000 Ada Generation", False),
        ("cuda:0 Quadro RTX 5000", False),
        ("cuda:0 NVIDIA GH200 480GB", False),
        ("cuda:0 AMD Radeon RX 7900 XTX", False),
        ("cuda:0 Some GPU of tomorrow", None),
    ],
)
def test_without_the_pack_the_devices_name_must_do(name: str, nvfp4: bool | None) -> None:
    found = described_hardware({"devices": [{**CUDA, "name": name}], "system": {"ram_total": 7}}, None)
    assert found["nvfp4"] is nvfp4 and found["told_by"] == "the device's name"
    said = {True: "has NVFP4 tensor cores:", False: "has no NVFP4 tensor cores", None: "is unknown"}[nvfp4]
    assert said in found["meaning"]


def test_the_pack_on_the_server_is_believed_more_than_a_name() -> None:
    told = {"version": "1", "devices": [{"name": "NVIDIA X", "capability": [12, 0], "nvfp4": True, "fp8": True}]}
    found = described_hardware({"devices": [{**CUDA, "name": "RTX 4090"}]}, told)
    other = described_hardware({"devices": [{"type": "xpu", "name": "Arc B580"}]}, {"devices": [{"name": "xpu"}]})
    assert other["device"] == "Arc B580" and other["nvfp4"] is False
    assert found["nvfp4"] is True and found["device"] == "NVIDIA X" and found["capability"] == [12, 0]


def test_times_without_comfy_kitchens_cuda_kernels_are_told_as_such() -> None:
    device = {"name": "RTX 5090", "capability": [12, 0], "nvfp4": True, "fp8": True}
    states = ({"kernels": True, "cuda": "13.0"}, {"kernels": False, "cuda": "12.8"}, {"kernels": False, "cuda": "13.0"})
    used, too_old, broken = (
        described_hardware({"devices": [{**CUDA, "name": "RTX 5090"}]}, {"devices": [{**device, **state}]})["meaning"]
        for state in states
    )
    assert "times and quality are those of this file" in used
    assert "CUDA 13 (cu130)" in too_old and "the times are longer" in too_old
    assert "ComfyUI's log tells why" in broken and "the times are longer" in broken


def test_memory_is_told_as_used_and_a_cpu_has_none_of_its_own() -> None:
    system = {"ram_total": 10, "ram_free": 4}
    assert used({"system": system, "devices": [CUDA]}) == {"ram": 6, "vram": 60, "torch": 30}
    assert used({"system": system, "devices": [{"type": "cpu", "vram_total": 10, "vram_free": 4}]}) == {"ram": 6}
    assert used({"devices": [{"type": "cuda", "vram_total": "x"}]}) == {} and used({}) == {}
    assert used({"system": {"ram_total": 10**400, "ram_free": 1}}) == {}


def test_what_a_server_tells_of_its_hardware_can_be_written_as_json() -> None:
    stats = {"devices": [{**CUDA, "name": "x", "vram_total": math.nan}], "system": {"ram_total": [1]}}
    found = described_hardware(stats, {"devices": [{"name": "x", "capability": [math.inf, {}]}]})
    assert found["vram_bytes"] is found["ram_bytes"] is found["capability"] is None
    json.dumps(found, allow_nan=False)
