"""A server that is killed while its node converts: started again and pressed again, it goes on where it was."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

NODE = "5"
TABLES = 11
TABLE_BYTES = 64 << 20
"""Tensors that are kept: 700 MB, so that the journal is written several times before the layers come."""
LAYERS = 8
WIDTH = 2048
SLACK_BYTES = 4 << 20
"""What a server writes besides: log lines, its answers, the report."""


def write_source(path: Path) -> None:
    """Random tables and, behind them, layers to quantize, in bfloat16."""
    shapes = {f"a_table.{index:02}": [TABLE_BYTES // 2] for index in range(TABLES)}
    shapes |= {f"blocks.{index}.mlp.weight": [WIDTH, WIDTH] for index in range(LAYERS)}
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    random = np.random.default_rng(3)
    # Upper halves of normal float32 numbers are bfloat16 numbers.
    values = (random.standard_normal(TABLE_BYTES // 2, dtype=np.float32).view(np.uint32) >> 16).astype(np.uint16)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for number, shape in enumerate(shapes.values()):
            file.write(np.roll(values, number)[: int(np.prod(shape))].tobytes())


def digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            found.update(block)
    return found.hexdigest()


@pytest.fixture(scope="module")
def folders(start_server: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """A server with the source; its folders are emptied afterwards, for they hold gigabytes."""
    server = start_server("--cache-classic")
    write_source(server.base / "models" / "diffusion_models" / "large-kept.safetensors")
    found = {"server": server, "start": lambda: start_server("--cache-classic", base=server.base)}
    yield found
    found["server"].stop()
    shutil.rmtree(server.base / "output")
    shutil.rmtree(server.base / "models")


INPUTS = {
    "source": "diffusion_models/large-kept.safetensors", "calibration": "none", "recipe": "weight-only",
    "input_scale": "p99.9", "rounding": "four-over-six", "layout": "source", "overwrite": False, "text_encoder": "keep",
    "pre_quant": "off", "gain": False,
}  # fmt: skip


def press(server: Any, name: str, asked: dict[str, Any] | None = None) -> tuple[int, Any]:
    """The prompt that the button queues."""
    inputs = {**(asked or {**INPUTS, "output_name": name}), "conversion_token": server.token(NODE)}
    answer: tuple[int, Any] = server.queue({NODE: {"class_type": "NVFP4Convert", "inputs": inputs}}, targets=[NODE])
    return answer


def lines(journal: Path) -> list[Any]:
    """The journal's complete lines: fingerprint, what was there at the start, what came then."""
    try:
        return [json.loads(line) for line in journal.read_bytes().split(b"\n")[:-1]]
    except FileNotFoundError:
        return []


def wait_for(server: Any, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, server.tail()
        time.sleep(0.002)


def written_by(server: Any) -> int:
    """Bytes that the process has given to the system to write, since it began."""
    counters = Path(f"/proc/{server.process.pid}/io")
    if not counters.exists():
        pytest.skip(f"{counters} does not exist: this system does not count what a process writes")
    return int(dict(line.split(": ") for line in counters.read_text().splitlines())["wchar"])


def test_a_killed_server_goes_on_after_its_restart(folders: dict[str, Any]) -> None:
    server = folders["server"]
    source = server.base / "models" / "diffusion_models" / "large-kept.safetensors"
    output = server.base / "output" / "diffusion_models"
    before = digest(source)
    entry = server.finish(press(server, "whole"))
    assert entry["status"]["status_str"] == "success", entry["status"]
    target, temporary, journal = (
        output / name for name in ("killed.safetensors", ".killed.safetensors.part", ".killed.safetensors.journal")
    )

    press(server, "killed")
    wait_for(server, lambda: len(lines(journal)) > 2)
    server.process.kill()
    server.process.wait()
    finished = {name for line in lines(journal)[1:] for name in line}
    assert finished and temporary.exists() and not target.exists() and digest(source) == before

    again = folders["server"] = folders["start"]()
    assert "killed.safetensors" not in again.options("UNETLoader", "unet_name")
    already = written_by(again)
    (left,) = again.request("/nvfp4_studio/conversions")[1]["interrupted"]
    assert left["id"] == "diffusion_models/killed.safetensors" and left["source"] == INPUTS["source"]
    assert 64 << 20 <= left["done"] <= left["total"] == temporary.stat().st_size
    assert left["options"] == {**INPUTS, "output_name": "killed"}
    answer = press(again, "killed", left["options"])
    wait_for(again, lambda: lines(journal)[1:2] not in ([], [{}]))  # the killed run's began with nothing
    assert again.request("/nvfp4_studio/conversions")[1]["interrupted"] == []
    assert set(lines(journal)[1]) == finished
    entry = again.finish(answer)
    assert entry["status"]["status_str"] == "success", entry["status"]
    with safe_open(target, "np") as file:
        sizes = {name: int(np.prod(file.get_slice(name).get_shape())) * 2 for name in finished if "table" in name}
    assert sizes and sum(sizes.values()) >= 64 << 20
    assert written_by(again) - already <= target.stat().st_size - sum(sizes.values()) + SLACK_BYTES
    assert digest(target) == digest(output / "whole.safetensors") and digest(source) == before
    assert list(output.glob(".*")) == []


def test_a_cancelled_conversion_of_that_size_leaves_nothing(folders: dict[str, Any]) -> None:
    server = folders["server"]
    output = server.base / "output" / "diffusion_models"
    before = sorted(output.iterdir())
    answer = press(server, "cancelled")
    wait_for(server, lambda: len(lines(output / ".cancelled.safetensors.journal")) > 2)
    server.request("/interrupt", {})
    entry = server.finish(answer)
    assert "execution_interrupted" in [kind for kind, _ in entry["status"]["messages"]]
    assert sorted(output.iterdir()) == before
