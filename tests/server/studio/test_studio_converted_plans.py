"""Plans that the page converts: recipes which no list shows, and which go when their conversions are over."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from nvfp4_studio.tests.server.studio.asking import FLUX, converted, get, post, press


def save(server: Any, name: str, age: float = 0) -> Path:
    """A plan as the page saves it before it queues a conversion; ``age`` in seconds."""
    modules = [layer["module"] for layer in post(server, "plan", source=FLUX)["layers"] if layer["format"] == "nvfp4"]
    answer = post(server, "recipes/save", name=f".studio/{name}", plan={"source": FLUX, "pins": {modules[0]: "mxfp8"}})
    assert answer == {"id": f"my/.studio/{name}"}
    path = Path(server.base / "models" / "nvfp4_recipes" / ".studio" / f"{name}.json")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_a_converted_plan_is_in_no_list_and_goes_with_the_last_conversion_that_needs_it(server: Any) -> None:
    plan = save(server, "plan")
    assert not any(".studio" in recipe["id"] for recipe in get(server, "recipes")["recipes"])
    assert not any(".studio" in recipe for recipe in server.options("NVFP4Convert", "recipe"))
    pressed = [press(server, f"planned-{i}", source=FLUX, recipe="my/.studio/plan") for i in range(2)]
    assert [server.finish(answer)["status"]["status_str"] for answer in pressed] == ["success", "success"]
    report = json.loads((server.base / "output/diffusion_models/planned-1.report.json").read_text("utf-8"))
    assert "mxfp8" in {layer["format"] for layer in report["plan"]["layers"]}
    assert not plan.exists()


def test_plans_that_nothing_waits_for_go_and_those_of_interrupted_conversions_stay(server: Any) -> None:
    plans = {name: save(server, name, age) for name, age in (("forgotten", 3600), ("fresh", 0), ("interrupted", 3600))}
    output = server.base / "output" / "diffusion_models"
    output.mkdir(parents=True, exist_ok=True)
    (output / ".killed.safetensors.part").write_bytes(bytes(1000))
    (output / ".killed.safetensors.journal").write_bytes(b'"print"\n{"a": [[0, 10, 7]]}\n')
    asked = {"source": FLUX, "output_name": "killed", "recipe": "my/.studio/interrupted", "overwrite": False}
    (output / ".killed.safetensors.asked").write_text(json.dumps(asked), "utf-8")
    converted(server, "beside-the-killed")
    assert [name for name, path in plans.items() if path.exists()] == ["fresh", "interrupted"]
    post(server, "conversions/discard", id="diffusion_models/killed.safetensors")
    for path in plans.values():
        path.unlink(missing_ok=True)
