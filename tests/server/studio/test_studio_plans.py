"""Sources, calibrations, plans and recipes as the studio's page asks for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from nvfp4_studio.calibration import Prompts, load, save
from nvfp4_studio.tests.server.studio.asking import (
    AIO,
    FLUX,
    calibrate,
    get,
    picture,
    post,
    sampling_prompt,
)

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
    assert status == 200 and not answer["convertible"]
    assert "diffusion_models/broken.safetensors" in answer["problem"] and str(server.base) not in answer["problem"]
    broken.unlink()


# Step 2: calibrations


def test_a_calibration_is_described_and_drawn(server: Any) -> None:
    path = calibrate(server, "seen")
    found = post(server, "calibration", name="seen")
    assert found["bytes"] == path.stat().st_size and found["detail"] == "scales"
    assert found["samplings"] == 12 and found["calls"] == 64 and found["schedule"] == [16] * 16
    assert found["layers_observed"] == found["layers_total"] > 0 and found["schedule_seen"] == 1
    assert found["missing"] == "" and found["convergence"]["advice"]
    assert found["largest"]["layer"] and f"largest amax {found['largest']['amax']:g} in" in found["summary"]
    status, kind, data = picture(server, "calibration_plot?name=seen")
    assert (status, kind, data[:8]) == (200, "image/png", b"\x89PNG\r\n\x1a\n")
    layer = picture(server, "calibration_plot?name=seen&layer=double_blocks.0.img_attn.qkv")
    assert layer[:2] == (200, "image/png") and layer[2] != data
    assert server.request("/nvfp4_studio/calibration_plot?name=seen&layer=absent")[0] == 404


def test_a_calibration_of_one_prompt_is_not_enough(server: Any) -> None:
    path = calibrate(server, "varied", 16)
    settled = replace(load(path), fold_samplings=torch.full((8,), 2))
    save(settled, path)
    assert post(server, "calibration", name="varied")["enough"]
    save(replace(settled, prompts=Prompts((7,), 16)), path)
    found = post(server, "calibration", name="varied")
    assert found["recommendations"] == ["All 16 samplings had the same prompt: vary it."] and not found["enough"]
    path.unlink()


def test_calibrations_are_merged_into_a_new_file_and_deleted(server: Any) -> None:
    first, second = calibrate(server, "one", 5), calibrate(server, "two", 7)
    before = first.read_bytes(), second.read_bytes()
    assert post(server, "calibrations/merge", names=["one", "two"], into="both") == {"name": "both"}
    assert post(server, "calibration", name="both")["samplings"] == 12
    assert (first.read_bytes(), second.read_bytes()) == before
    status, answer = server.request("/nvfp4_studio/calibrations/merge", {"names": ["one", "two"], "into": "seen"})
    assert status == 400 and "already" in answer["error"]
    linked = first.with_name("one.influence.json")
    linked.symlink_to(server.base / "models" / FLUX)  # no influence, so reading it would be an error
    post(server, "calibrations/merge", names=["one", "two"], into="one")
    assert not linked.exists() and (server.base / "models" / FLUX).exists()
    for twice in (["one", "one.safetensors"], ["one", " one "]):
        status, answer = server.request("/nvfp4_studio/calibrations/merge", {"names": twice, "into": "twice"})
        assert status == 400 and "different" in answer["error"]
    post(server, "calibrations/delete", name="both")
    assert "both" not in [entry["name"] for entry in get(server, "calibrations")["calibrations"]]


# Step 3: plan and recipes


def test_a_plan_has_every_layer_and_what_it_may_become(server: Any) -> None:
    plan = post(server, "plan", source=FLUX)
    layers = {layer["module"]: layer for layer in plan["layers"]}
    assert len(layers) == post(server, "source", id=FLUX)["layers"]
    assert plan["source_bytes"] == (server.base / "models" / FLUX).stat().st_size
    assert sum(plan["formats"].values()) == len(layers)
    quantized = [layer for layer in layers.values() if layer["format"] == "nvfp4"]
    assert quantized and all(layer["block"] and layer["kind"] in layer["module"] for layer in quantized)
    assert all(layer["predicted"]["sqnr_db"] > 15 and not layer["predicted"]["measured"] for layer in quantized)
    assert abs(sum(layer["predicted"]["share"] or 0 for layer in layers.values()) - 1) < 1e-6
    assert plan["speed"]["predicted"] > 0 and plan["speed"]["kernels"]
    assert (plan["speed"]["basis"], plan["summary"]["error"]["of"]) == ("image", "weights")
    guarded = layers["img_in"]
    assert "keep" in guarded["allowed"] and "nvfp4" not in guarded["allowed"] and "nvfp4" in quantized[0]["allowed"]


def test_a_plan_with_statistics_has_scales(server: Any) -> None:
    calibrate(server, "seen")
    plan = post(server, "plan", source=FLUX, calibration="seen")
    scaled = [layer for layer in plan["layers"] if layer["input_scale"] is not None]
    assert scaled and plan["calibration"] == "seen"
    drawn = {layer["module"]: layer["histogram"] for layer in plan["layers"]}
    assert drawn["double_blocks.0.img_attn.qkv"] and not drawn["img_in"]
    plain = post(server, "plan", source=FLUX)
    assert not any(layer["histogram"] for layer in plain["layers"])
    assert plan["speed"]["basis"] == plain["speed"]["basis"] == "image", "it saw 256 rows a call, fewer than 1024² has"


def test_calibrations_of_the_source_are_named_where_none_is_chosen(server: Any) -> None:
    calibrate(server, "any")
    assert server.finish(server.queue(sampling_prompt(3, "rows")))["status"]["status_str"] == "success"
    assert "rows" in post(server, "plan", source=AIO)["fitting"]
    assert post(server, "plan", source=AIO, calibration="rows")["fitting"] == []
    assert not {"rows", "any"} & set(post(server, "plan", source=FLUX)["fitting"]), (
        "another model's, and weights unknown"
    )


def test_what_a_node_can_do_a_plan_can(server: Any) -> None:
    assert server.finish(server.queue(sampling_prompt(3, "rows")))["status"]["status_str"] == "success"
    choices = get(server, "recipes")
    defaults = choices["defaults"]
    assert list(choices["pre_quants"]) == ["off", "search"] and defaults["pre_quant"] == "off"
    assert list(choices["text_encoders"]) == ["keep", "fp8", "nvfp4"] and defaults["text_encoder"] == "keep"
    assert defaults["detail"] in choices["details"]
    plain = post(server, "plan", source=AIO, calibration="rows", text_encoder="keep", pre_quant="off", gain=None)
    measured = post(server, "plan", source=AIO, calibration="rows", pre_quant="search", gain=True)
    assert measured["formats"] == plain["formats"]
    status, answer = server.request("/nvfp4_studio/plan", {"source": AIO, "text_encoder": "fp8"})
    assert status == 400 and "(found: text_encoders.clip_l.transformer)" in answer["error"]
    gpu = next(iter(choices["kernels"]))
    assert post(server, "plan", source=AIO, kernels=gpu)["speed"]["gpu"] == choices["kernels"][gpu]


def test_pins_are_planned_saved_and_converted_from(server: Any) -> None:
    before = {layer["module"]: layer for layer in post(server, "plan", source=FLUX)["layers"]}
    module = next(name for name, layer in before.items() if layer["format"] == "nvfp4")
    asked = {"source": FLUX, "pins": {module: "mxfp8"}}
    plan = post(server, "plan", **asked)
    after = {layer["module"]: layer for layer in plan["layers"]}
    assert after[module]["format"] == "mxfp8" and after[module]["pinned"] and plan["summary"]["pinned"] == 1
    assert {name for name in before if before[name]["format"] != after[name]["format"]} == {module}
    assert post(server, "recipes/save", name="by-hand", plan=asked) == {"id": "my/by-hand"}
    status, answer = server.request("/nvfp4_studio/recipes/save", {"name": "by-hand", "plan": asked})
    assert status == 400 and "already" in answer["error"]
    listed = {recipe["id"]: recipe for recipe in get(server, "recipes")["recipes"]}
    assert listed["my/by-hand"]["mine"] and listed["my/by-hand"]["pinned"] == 1 and not listed["flux"]["mine"]
    again = {layer["module"]: layer for layer in post(server, "plan", source=FLUX, recipe="my/by-hand")["layers"]}
    assert {name: layer["format"] for name, layer in again.items()} == {
        n: layer["format"] for n, layer in after.items()
    }
    unpinned = post(server, "plan", source=FLUX, recipe="my/by-hand", pins={module: None})
    assert unpinned["formats"] == post(server, "plan", source=FLUX)["formats"]
    assert post(server, "recipes/delete", id="my/by-hand") == {"deleted": "my/by-hand"}
    assert "my/by-hand" not in [recipe["id"] for recipe in get(server, "recipes")["recipes"]]
    assert server.request("/nvfp4_studio/recipes/delete", {"id": "flux"})[0] == 400
    assert post(server, "recipes/save", name=" by-hand.json ", plan=asked) == {"id": "my/by-hand"}
    post(server, "recipes/delete", id="my/by-hand")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pins": {"img_in": "nvfp4"}}, "which it cannot be"),
        ({"pins": {"no.such.layer": "nvfp4"}}, "does not have"),
        ({"pins": {"img_in": "int3"}}, "choose one of"),
        ({"rounding": "upwards"}, "There is no rounding"),
        ({"layout": "checkpoint"}, "no all-in-one checkpoint"),
        ({"text_encoder": "int4"}, "There is no text_encoder"),
        ({"text_encoder": "fp8"}, "keep text encoders as they are"),
        ({"pre_quant": "on"}, "There is no pre_quant"),
        ({"pre_quant": "search"}, "there is no calibration"),
        ({"gain": True}, "there is no calibration"),
        ({"gain": "yes"}, "must be true or false"),
        ({"recipe": "my/absent"}, "There is no recipe"),
        ({"recipe": "/etc/passwd.json"}, "There is no recipe"),
        ({"calibration": "absent"}, "There is no calibration"),
        ({"sensitivity": "absent"}, "There is no sensitivity"),
    ],
)
def test_a_plan_that_cannot_be_is_one_sentence(server: Any, fields: dict[str, Any], said: str) -> None:
    status, answer = server.request("/nvfp4_studio/plan", {"source": FLUX, **fields})
    assert status in (400, 404) and said in answer["error"] and str(server.base) not in answer["error"]
