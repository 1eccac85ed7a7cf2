"""The studio's routes on a server with ``--enable-cors-header``, which takes ComfyUI's own origin check away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

FLUX = "diffusion_models/flux.safetensors"
AIO = "checkpoints/aio.safetensors"


@pytest.fixture(scope="module")
def server(start_server: Any) -> Iterator[Any]:
    running = start_server("--cache-classic", "--enable-cors-header", "*")
    yield running
    running.stop()


def get(server: Any, path: str) -> Any:
    status, answer = server.request(f"/nvfp4_studio/{path}")
    assert status == 200, answer
    return answer


def post(server: Any, path: str, **body: Any) -> Any:
    status, answer = server.request(f"/nvfp4_studio/{path}", body)
    assert status == 200, answer
    return answer


# Step 1: sources


def test_every_checkpoint_is_listed_with_its_size(server: Any) -> None:
    found = {entry["id"]: entry for entry in get(server, "sources")["sources"]}
    assert {FLUX, AIO, "diffusion_models/large.safetensors"} <= found.keys()
    file = server.base / "models" / FLUX
    assert found[FLUX]["bytes"] == file.stat().st_size and found[FLUX]["modified_ns"] == file.stat().st_mtime_ns


def test_a_source_is_described_from_its_header(server: Any) -> None:
    found = post(server, "source", id=FLUX)
    assert found["family"] == "flux" and found["default_recipe"] and found["layers"] == sum(found["formats"].values())
    assert found["convertible"] and found["problem"] is None and not found["all_in_one"]
    assert found["loader"] == {"class_type": "UNETLoader", "widget": "unet_name", "value": "flux.safetensors"}
    found = post(server, "source", id=AIO)
    assert found["all_in_one"] and found["loader"]["class_type"] == "CheckpointLoaderSimple"


def test_a_broken_source_is_one_sentence_without_a_path_of_the_server(server: Any) -> None:
    broken = server.base / "models" / "diffusion_models" / "broken.safetensors"
    broken.write_bytes((server.base / "models" / FLUX).read_bytes()[:5000])
    status, answer = server.request("/nvfp4_studio/source", {"id": "diffusion_models/broken.safetensors"})
    assert status == 400 and "diffusion_models/broken.safetensors" in answer["error"]
    assert str(server.base) not in answer["error"]
    broken.unlink()
