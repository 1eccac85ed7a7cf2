"""The studio tab in ComfyUI's frontend: from an empty canvas to an image of the converted file, and what goes wrong.

``NVFP4_SCREENSHOTS`` names a folder for pictures of every step and for the README's. Accessibility is looked at with axe-core where it is
installed: ``AXE_CORE`` names its ``axe.min.js``, or it lies in ``tests/unit/web/node_modules``.
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from nvfp4_studio.calibration import BINS, Calibration, LayerStatistics, save
from nvfp4_studio.calibration.coverage import SCHEDULE_BINS
from nvfp4_studio.calibration.histogram import bin_index
from nvfp4_studio.converters.containers.layout import TensorSpec, lay_out
from nvfp4_studio.nodes.studio.speed import OF_TEXT, ONCE, ROWS, TEXT_ROWS

SOURCE = "studio"
PICTURED = "qwen_image_bf16"
BESIDE = ("text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors", "vae/qwen_image_vae.safetensors")
"""What the example workflow names besides; the picture's workflow is not run."""

PICTURE = {"width": 1300, "height": 1180}
RENDERERS = ("canvas", "nodes-2.0")
LOCALES = Path(__file__).resolve().parents[2] / "locales"


def axe_core() -> Path | None:
    """The script of axe-core, None where it is not installed."""
    packages = Path(__file__).resolve().parents[1] / "unit" / "web" / "node_modules"
    given = os.environ.get("AXE_CORE")
    candidates = [Path(given)] if given else [packages / "axe-core" / "axe.min.js"]
    return next((path for path in candidates if path.is_file()), None)


def write_slow(path: Path, like: Path, blocks: int = 28) -> None:
    """A checkpoint whose conversion takes so long that there is time to reload and to cancel.

    It is that of ``like`` with its first blocks repeated and without values: 7 GB that take no room on the disk.
    """
    with like.open("rb") as file:
        found: dict[str, Any] = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    header: dict[str, Any] = {}
    end = 0
    for name, entry in found.items():
        first, last = entry.get("data_offsets", (0, 0))
        for block in range(blocks if "_blocks.0." in name else 1):
            repeated = name.replace("_blocks.0.", f"_blocks.{block}.")
            header[repeated] = {**entry, "data_offsets": [end, end := end + last - first]} if last else entry
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def qwen_image_layers(width: int = 3072) -> dict[str, tuple[int, int]]:
    """Every layer of Qwen-Image with its shape."""
    square, modulation = (width, width), (6 * width, width)
    block = {f"attn.{name}": square for name in ("to_q", "to_k", "to_v", "to_out.0", "to_add_out")}
    block |= {f"attn.add_{name}_proj": square for name in "qkv"}
    for stream in ("img", "txt"):
        block |= {f"{stream}_mlp.net.0.proj": (4 * width, width), f"{stream}_mlp.net.2": (width, 4 * width)}
        block[f"{stream}_mod.1"] = modulation
    layers = {f"transformer_blocks.{index}.{name}": shape for index in range(60) for name, shape in block.items()}
    layers |= {"img_in": (width, 64), "txt_in": (width, 3584), "proj_out": (64, width)}
    layers["norm_out.linear"] = (2 * width, width)
    layers |= {
        f"time_text_embed.timestep_embedder.linear_{index}": (width, 256 if index == 1 else width) for index in (1, 2)
    }
    return layers


def write_qwen_image(path: Path) -> None:
    """Qwen-Image without values: 41 GB that take no room on the disk."""
    layers = qwen_image_layers()
    specs = [TensorSpec(f"{name}.weight", torch.bfloat16, shape) for name, shape in layers.items()]
    specs += [TensorSpec(f"{name}.bias", torch.bfloat16, (rows,)) for name, (rows, _) in layers.items()]
    specs.append(TensorSpec("txt_norm.weight", torch.bfloat16, (3584,)))
    head, _ = lay_out(specs, {})
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + sum(spec.nbytes for spec in specs))


def write_statistics(path: Path) -> None:
    """What calibrating Qwen-Image on images of 1024² might leave with detail scales, the same for every layer."""
    histogram = torch.zeros(BINS, dtype=torch.int64)
    histogram[int(bin_index(torch.tensor(2.0)))] = 64
    layers = {}
    for name, (rows, columns) in qwen_image_layers().items():
        tokens = 1 if ONCE.search(name) else TEXT_ROWS if OF_TEXT.search(name) else ROWS
        seen = (histogram, histogram, 16 * histogram, torch.full((2, 16), 2.0))
        layers[name] = LayerStatistics(columns, rows, 64, 64 * tokens, 1024, 0, 2.0, *seen)
    schedule = torch.full((2, SCHEDULE_BINS), 8, dtype=torch.int64)
    path.parent.mkdir(exist_ok=True)
    save(Calibration(layers, {}, 20, 20, 64, schedule), path)


@pytest.fixture(scope="module")
def server(frontend: Any, run_in_comfy: Callable[..., dict[str, Any]]) -> Any:
    """The server of all visits, with a checkpoint that can be sampled to a picture and one that is none."""
    models = frontend.base / "models"
    checkpoint = f"{models}/checkpoints/{SOURCE}.safetensors"
    run_in_comfy("make_models", models={checkpoint: {"kind": "all-in-one", "vae": True}})
    write_slow(models / "diffusion_models" / "slow.safetensors", models / "diffusion_models" / "large.safetensors")
    (models / "diffusion_models" / "broken.safetensors").write_text("not a checkpoint\n", "utf-8")
    return frontend


@pytest.fixture(scope="module")
def studio(
    server: Any, shown: Callable[..., Any], visit: Callable[..., dict[str, Any]]
) -> Callable[..., dict[str, Any]]:
    """Visit the tab in one renderer and go through some scenes; what was seen comes back."""

    def go(renderer: str, scenes: list[str], palette: str = "dark", **more: Any) -> dict[str, Any]:
        shown(renderer, palette)
        pictures = os.environ.get("NVFP4_SCREENSHOTS")
        shots = Path(pictures) / renderer if pictures else None
        if shots:
            shots.mkdir(parents=True, exist_ok=True)
        axe = axe_core()
        asked = {"source": SOURCE, "id": f"checkpoints/{SOURCE}.safetensors", "output": f"small-{renderer}", **more}
        return visit(
            "studio.cjs",
            url=server.url,
            scenes=scenes,
            axe=str(axe) if axe else None,
            shots=str(shots) if shots else None,
            **asked,
        )

    return go


@pytest.fixture(scope="module", params=RENDERERS)
def path(request: pytest.FixtureRequest, server: Any, studio: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """The whole path and the loader's menu in this renderer; then a broken source, two conversions with a reload, a
    second page and a cancel, and a deletion."""
    converted = server.base / "output" / "diffusion_models" / "flux-nvfp4.safetensors"
    seen = studio(request.param, ["path", "menu", "troubles"], converted=str(converted))
    return {**seen, "renderer": request.param}


CALIBRATIONS = ("first", "second")
GAINED = "gained"


def sampling(name: str, seed: int) -> dict[str, Any]:
    """A prompt: one image of the checkpoint into a calibration that keeps inputs, as a budget's measurement needs."""
    options = {"name": name, "mode": "accumulate", "detail": "curvature"}
    sampler = {"seed": seed, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": f"{SOURCE}.safetensors"}},
        "2": {"class_type": "NVFP4Calibrate", "inputs": {"model": ["1", 0], **options}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red fox", "clip": ["1", 1]}},
        "4": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "5": {
            "class_type": "KSampler",
            "inputs": {
                **sampler,
                "model": ["2", 0],
                "positive": ["3", 0],
                "negative": ["3", 0],
                "latent_image": ["4", 0],
            },
        },
        "6": {"class_type": "SaveLatent", "inputs": {"samples": ["5", 0], "filename_prefix": name}},
    }


@pytest.fixture(scope="module")
def kept(server: Any, studio: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Two calibrations merged, errors measured and deleted, a budget, a recipe saved and deleted, a calibration restarted and
    one deleted, all in a light palette; then the whole path by keys alone, and the tab in another language."""
    for seed, name in enumerate(CALIBRATIONS):
        assert server.run(sampling(name, seed))["status"]["status_str"] == "success"
    return studio(
        "canvas",
        ["keeping", "keys", "language"],
        "light",
        calibrations=CALIBRATIONS,
        models=str(server.base / "models"),
        sampling=sampling("both", len(CALIBRATIONS)),
        budget="size<=178MB",
        gained=GAINED,
        language="ja",
    )


KILLED_AFTER = 100_000_000
"""Bytes: 3 % of the slow checkpoint's conversion, so that its page has a number to show."""


def bytes_in(journal: Path) -> int:
    """How much of a file in the making is on the disk."""
    lines = [json.loads(line) for line in journal.read_bytes().split(b"\n")[:-1]]
    entries = (pieces for line in lines if isinstance(line, dict) for pieces in line.values())
    return sum(piece[1] for pieces in entries for piece in pieces if isinstance(piece, list))


def kill(server: Any, start: Callable[..., Any], name: str) -> None:
    """Kill the server when its conversion has kept something, and start it again in its place."""
    asked = {"calibration": "none", "recipe": "auto", "input_scale": "p99.9", "rounding": "auto", "layout": "source"}
    inputs = {**asked, "source": "diffusion_models/slow.safetensors", "output_name": name, "overwrite": False}
    convert = {"class_type": "NVFP4Convert", "inputs": {**inputs, "conversion_token": server.token("1")}}
    server.queue({"1": convert}, targets=["1"])
    journal = server.base / "output" / "diffusion_models" / f".{name}.safetensors.journal"
    end = time.monotonic() + 90
    while not journal.is_file() or bytes_in(journal) < KILLED_AFTER:
        assert time.monotonic() < end, server.tail()
        time.sleep(0.05)
    server.process.kill()
    server.process.wait()
    again = start("--cache-classic", base=server.base)
    server.process, server.url = again.process, again.url


@pytest.fixture(scope="module")
def revived(server: Any, start_server: Any, kept: Any, studio: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """The page of a server that was killed while it converted; the others' visits are over by then."""
    kill(server, start_server, "killed")
    return studio("canvas", ["resume"])


def test_calibrating_from_an_empty_canvas_shows_what_was_seen(path: dict[str, Any]) -> None:
    samplings, steps, layers, _ = path["notes"]["statistics"]
    assert int(steps) == 8 * int(samplings) > 0 and layers.split(" / ")[0] == layers.split(" / ")[1]
    assert path["notes"]["bins"] >= 4 and path["notes"]["paused"] == 4


def test_the_tab_opens_at_once_and_only_models_in_view_are_looked_at(path: dict[str, Any]) -> None:
    assert path["notes"]["early"] and 0 < path["notes"]["asked"] < path["notes"]["cards"]


def test_the_search_is_seen_when_the_tab_is_opened_again(path: dict[str, Any]) -> None:
    assert path["notes"]["search"] == SOURCE


def test_a_loader_inside_a_subgraph_is_calibrated_for_the_samplers_outside(path: dict[str, Any]) -> None:
    found = path["notes"]["subgraph"]
    assert found["model"] == [found["calibrate"], 0]


def test_detail_is_offered_before_measuring_and_plan_says_what_it_would_give(path: dict[str, Any]) -> None:
    assert path["notes"]["detail"] == "scales" and not path["notes"]["measurable"]
    assert path["notes"]["rounded"].startswith("Rounded by block-search. A calibration with detail curvature")


def test_a_layer_pinned_by_hand_changes_the_totals_and_the_file(path: dict[str, Any], server: Any) -> None:
    assert path["notes"]["pinned"] != path["notes"]["total"]
    status, report = server.request("/nvfp4_studio/result", {"id": f"checkpoints/small-{path['renderer']}.safetensors"})
    layers = {layer["module"]: layer for layer in report["plan"]["layers"] if layer["component"] == "diffusion_model"}
    pinned, other = (layers[f"joint_blocks.{block}.x_block.mlp.fc1"] for block in (1, 2))
    assert status == 200 and pinned["action"] == "copy" and other["format"] == "nvfp4"


def test_the_block_map_leads_to_a_layer_of_the_table_by_keyboard(path: dict[str, Any]) -> None:
    assert path["notes"]["revealed"].startswith("Format of joint_blocks.0.") and path["notes"]["inPlace"]


def test_the_converted_file_is_put_into_the_loader_and_sampled(path: dict[str, Any], server: Any) -> None:
    name = f"small-{path['renderer']}.safetensors"
    assert path["notes"]["loader"] == path["notes"]["sampled"] == name
    assert path["notes"]["first"] == 1 and path["notes"]["worst"] > 0
    for image in path["notes"]["images"]:
        assert (server.base / "output" / image).stat().st_size > 1000


def test_a_loaders_menu_calibrates_converts_and_uses_the_file(path: dict[str, Any]) -> None:
    menu = path["notes"]["menu"]
    assert len(menu["loader"]) == 4 and menu["loader"][0] == "Convert to NVFP4…" and menu["other"] == []
    assert menu["links"] == {
        "loader": ["NVFP4Calibrate"],
        "calibrate": ["KSampler", "ModelSamplingSD3"],
        "name": SOURCE,
    }
    assert menu["source"] == f"checkpoints/{SOURCE}.safetensors"


def test_a_layers_details_show_its_histogram(path: dict[str, Any]) -> None:
    assert path["notes"]["histogram"].startswith("Histogram of the inputs of joint_blocks.0.")
    assert path["notes"]["facts"] == ["Format", "Reason", "Shape", "Size"], "all that is known of a layer that is kept"


def test_the_converted_file_is_compared_with_its_source_by_one_run(path: dict[str, Any]) -> None:
    assert sorted(path["notes"]["compared"]) == [f"small-{path['renderer']}.safetensors", f"{SOURCE}.safetensors"]


def test_the_browser_saw_no_error(path: dict[str, Any]) -> None:
    assert path["errors"] == []


def test_no_serious_fault_of_accessibility(path: dict[str, Any]) -> None:
    if axe_core() is None:
        pytest.skip("no axe-core: npm install it in tests/unit/web, or set AXE_CORE to its axe.min.js")
    assert path["axe"] == []


def test_a_broken_source_says_what_is_wrong_and_cannot_be_planned(path: dict[str, Any]) -> None:
    assert "broken" in path["notes"]["broken"] and path["notes"]["broken"].count(".") <= 4
    assert path["notes"]["blocked"]


def test_a_refused_plan_and_a_refused_name_say_why_and_convert_nothing(path: dict[str, Any]) -> None:
    assert path["notes"]["refusedPlan"].startswith("A budget is kept by measured errors")
    assert path["notes"]["refusedConvert"] == [path["notes"]["refusedPlan"], True]
    assert path["notes"]["refusedName"].startswith("The output name '../evil' leaves its folder")


def test_a_screen_reader_hears_how_far_a_conversion_is(path: dict[str, Any]) -> None:
    assert "%" in path["notes"]["spoken"] and "slow-nvfp4" in path["notes"]["spoken"]


def test_a_conversion_goes_on_after_a_reload_and_cancelling_leaves_no_file(path: dict[str, Any], server: Any) -> None:
    assert "slow-nvfp4" in path["notes"]["afterReload"]
    left = [file.name for file in (server.base / "output" / "diffusion_models").iterdir() if "slow" in file.name]
    assert left == []


def test_a_second_page_shows_what_the_first_one_began(path: dict[str, Any]) -> None:
    assert "slow-nvfp4" in path["notes"]["elsewhere"] and "Cancel" in path["notes"]["elsewhere"]


def test_a_second_conversion_waits_and_then_runs(path: dict[str, Any]) -> None:
    assert "Finished" in path["notes"]["second"]


def test_a_file_is_deleted_only_when_the_question_was_answered(path: dict[str, Any]) -> None:
    assert path["notes"]["kept"] and path["notes"]["deleted"]


def test_a_deleted_result_is_not_offered_any_more(path: dict[str, Any]) -> None:
    assert "Finished" in path["notes"]["gone"] and "Show the result" not in path["notes"]["gone"]


def test_two_calibrations_become_one(kept: dict[str, Any]) -> None:
    assert kept["notes"]["merged"] == "2"


def test_errors_are_measured_and_a_budget_is_kept(kept: dict[str, Any]) -> None:
    assert kept["notes"]["measured"] == "both" and "of the source" in kept["notes"]["budget"]


def test_a_recipe_is_saved_chosen_and_deleted(kept: dict[str, Any]) -> None:
    assert kept["notes"]["recipe"] == "auto"


def test_a_gain_that_was_chosen_in_plan_is_told_in_convert_and_measured(kept: dict[str, Any], server: Any) -> None:
    assert kept["notes"]["rounded"].startswith("Rounded by") and "curvature" not in kept["notes"]["rounded"]
    facts = kept["notes"]["facts"]
    assert f"checkpoints/{SOURCE}.safetensors" in facts and "both" in facts and "Measure a gain" in facts
    _, report = server.request("/nvfp4_studio/result", {"id": f"checkpoints/{GAINED}.safetensors"})
    assert report["plan"]["options"]["gain"] is True


def test_a_calibration_is_restarted_only_when_the_question_was_answered(kept: dict[str, Any]) -> None:
    restarted = kept["notes"]["restarted"]
    assert restarted["refused"] == restarted["before"] and not restarted["agreed"]
    assert restarted["samplings"] == "1"


def test_a_calibration_is_deleted_only_when_the_question_was_answered(kept: dict[str, Any]) -> None:
    erased = kept["notes"]["erased"]
    assert erased["refused"] == erased["before"] and not erased["agreed"] and erased["others"] == ["both", "second"]


def test_a_sensitivity_is_deleted_by_keys_only_when_the_question_was_answered(kept: dict[str, Any]) -> None:
    unmeasured = kept["notes"]["unmeasured"]
    assert unmeasured["before"] and unmeasured["refused"] == unmeasured["before"] and not unmeasured["agreed"]
    assert (unmeasured["chosen"], unmeasured["focus"]) == ("", "Measured sensitivity")


def test_the_whole_path_by_keys_alone(kept: dict[str, Any], server: Any) -> None:
    keys = kept["notes"]["keys"]
    assert keys["unseen"] == [] and keys["nameless"] == []
    assert keys["calibration"] == "both" and keys["pinned"] == "Release 1 pinned layer" and keys["loader"]
    assert not (server.base / "output" / "checkpoints" / "by-keys.safetensors").exists(), "deleted by keys too"


def test_the_servers_sentences_are_in_the_users_language(kept: dict[str, Any]) -> None:
    told = json.loads((LOCALES / "ja" / "main.json").read_text("utf-8"))["nvfp4Studio"]["told"]
    assert told["reason"]["outside"] in kept["notes"]["language"]["reasons"]
    assert told["advice"]["only"].format(times=told["advice"]["single"]) in kept["notes"]["language"]["advice"]


def test_nothing_that_was_kept_failed(kept: dict[str, Any]) -> None:
    assert kept["errors"] == [] and kept["axe"] == []


def test_what_a_killed_server_left_is_offered_and_goes_on(revived: dict[str, Any], server: Any) -> None:
    assert "killed" in revived["notes"]["offered"] and "Stopped after" in revived["notes"]["offered"]
    assert revived["notes"]["resumed"] >= revived["notes"]["kept"] > 0
    assert revived["errors"] == [] and revived["axe"] == []
    left = [file.name for file in (server.base / "output" / "diffusion_models").iterdir() if "killed" in file.name]
    assert left == []


def test_the_picture_in_the_readme(server: Any, studio: Callable[..., dict[str, Any]]) -> None:
    folder = os.environ.get("NVFP4_SCREENSHOTS")
    if not folder:
        pytest.skip("no picture asked for: set NVFP4_SCREENSHOTS to a folder")
    write_qwen_image(server.base / "models" / "diffusion_models" / f"{PICTURED}.safetensors")
    write_statistics(server.base / "models" / "nvfp4_calibration" / f"{PICTURED}.safetensors")
    for name in BESIDE:
        (server.base / "models" / name).parent.mkdir(exist_ok=True)
        (server.base / "models" / name).touch()
    assert studio("canvas", ["picture"], source=PICTURED, **PICTURE)["errors"] == []
    with Image.open(Path(folder) / "canvas" / "studio.png") as taken:
        few = taken.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=4, dither=Image.Dither.NONE)
    few.save(Path(folder) / "studio.png", optimize=True)
