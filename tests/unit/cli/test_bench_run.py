"""A comparison's journal, its loader, its files, and what the command refuses before it asks a server."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nvfp4_studio.cli.benching.journal import NAME, Journal
from nvfp4_studio.cli.benching.loading import prepare_loading
from nvfp4_studio.cli.benching.output import read_result
from nvfp4_studio.cli.benching.page import page
from nvfp4_studio.cli.benching.quality import add_scores, read_picture
from nvfp4_studio.cli.benching.result import BenchError
from nvfp4_studio.cli.benching.schedule import Shot
from nvfp4_studio.cli.benching.sheet import contact_sheet
from nvfp4_studio.cli.servers.errors import RequestError
from nvfp4_studio.cli.servers.workflow import Graph
from nvfp4_studio.converters.errors import PictureError

LISTED = ["a.safetensors", "sub\\b.safetensors", "c,d.safetensors"]
CLASSES: dict[str, Any] = {
    "Loader": {
        "input": {"required": {"unet_name": [LISTED, {}], "weight_dtype": [["default", "fp8"], {}]}},
        "output": ["MODEL"],
    },
    "Text": {"input": {"required": {"text": ["STRING", {}]}}, "output": ["CONDITIONING"]},
    "Noise": {"input": {"required": {"noise_seed": ["INT", {}]}}, "output": ["NOISE"]},
    "Sampler": {
        "input": {
            "required": {"model": ["MODEL"], "positive": ["CONDITIONING"], "noise": ["NOISE"], "more": ["LATENT"]}
        },
        "output": ["LATENT"],
    },
    "Decode": {"input": {"required": {"samples": ["LATENT"]}}, "output": ["IMAGE"]},
    "SaveImage": {
        "input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {}]}},
        "output": [],
        "output_node": True,
    },
}
PROMPT: dict[str, Any] = {
    "1": {"class_type": "Loader", "inputs": {"unet_name": "x.safetensors", "weight_dtype": "default"}},
    "2": {"class_type": "Text", "inputs": {"text": "old"}},
    "3": {"class_type": "Noise", "inputs": {"noise_seed": 5}},
    "4": {"class_type": "Sampler", "inputs": {"model": ["1", 0], "positive": ["2", 0], "noise": ["3", 0]}},
    "5": {"class_type": "Decode", "inputs": {"samples": ["4", 0]}},
    "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "x"}},
}
SHOT = Shot(1, "new", None, 77)


def test_the_loaders_widget_is_found_by_what_it_lists() -> None:
    loading, files = prepare_loading(Graph(PROMPT, CLASSES), ["a.safetensors", "sub/b.safetensors"])
    assert loading.places == (("1", "unet_name"),) and files == [("a.safetensors",), ("sub\\b.safetensors",)]
    made = loading.prompt_for(files[1], SHOT)
    assert made["1"]["inputs"] == {"unet_name": "sub\\b.safetensors", "weight_dtype": "default"}
    assert made["2"]["inputs"]["text"] == "new" and made["3"]["inputs"]["noise_seed"] == 77
    assert made["6"] == {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}}
    assert loading.fresh == {"3", "4", "5", "6"} and PROMPT["6"]["class_type"] == "SaveImage"


def test_two_loaders_take_two_files_for_each_model() -> None:
    prompt = copy.deepcopy(PROMPT)
    prompt["7"] = copy.deepcopy(prompt["1"])
    prompt["8"] = copy.deepcopy(prompt["4"])
    prompt["8"]["inputs"].update(model=["7", 0], more=["4", 0])
    prompt["5"]["inputs"]["samples"] = ["8", 0]
    graph = Graph(prompt, CLASSES)
    with pytest.raises(RequestError, match="has 2 loaders .*one file for each"):
        prepare_loading(graph, ["a.safetensors"])
    loading, files = prepare_loading(graph, ["a.safetensors,sub/b.safetensors"])
    made = loading.prompt_for(files[0], SHOT)
    assert made["1"]["inputs"]["unet_name"] == "a.safetensors"
    assert made["7"]["inputs"]["unet_name"] == "sub\\b.safetensors"
    one, files = prepare_loading(Graph(prompt, CLASSES), ["c,d.safetensors"], ["7"])
    assert one.prompt_for(files[0], SHOT)["1"]["inputs"]["unet_name"] == "x.safetensors"
    with pytest.raises(RequestError, match="--model-node 2: the models sampled"):
        prepare_loading(Graph(prompt, CLASSES), ["a.safetensors"], ["2"])


def test_a_file_that_is_not_listed_is_told_with_what_is() -> None:
    with pytest.raises(RequestError, match=r"Loader \(node 1\) does not list the model z.safetensors.*a.safetensors"):
        prepare_loading(Graph(PROMPT, CLASSES), ["a.safetensors", "z.safetensors"])


def test_a_workflow_in_which_nothing_changes_is_refused() -> None:
    prompt = copy.deepcopy(PROMPT)
    prompt["4"]["inputs"] = {"model": ["1", 0]}
    with pytest.raises(RequestError, match="every picture would be the same"):
        prepare_loading(Graph(prompt, CLASSES), ["a.safetensors"])


def entry(picture: int) -> dict[str, Any]:
    return {"model": 0, "picture": picture, "seconds": 1.0}


def test_the_journal_goes_on_after_a_kill_in_the_middle_of_a_line(tmp_path: Path) -> None:
    with Journal(tmp_path / "out", {"seed": 1}) as journal:
        journal.begin({"comfyui": "0.33"})
        journal.record(entry(1))
        journal.record(entry(2))
        assert journal.lose(0, 3) == 1
    path = tmp_path / "out" / NAME
    path.write_bytes(path.read_bytes() + b'{"model": 0, "pict')
    with Journal(tmp_path / "out", {"seed": 1}) as journal:
        assert set(journal.done) == {(0, 1), (0, 2)} and journal.server == {"comfyui": "0.33"}
        assert journal.lose(0, 3) == 2
        journal.record(entry(3))
    assert [json.loads(line) for line in path.read_bytes().splitlines()][-1] == entry(3)


@pytest.mark.parametrize("left", [b"", b'{"for', b'{"format": "nvfp4-studio-bench-journal", "version": 1, "requ'])
def test_a_journal_whose_first_line_was_cut_off_is_begun_anew(tmp_path: Path, left: bytes) -> None:
    (tmp_path / NAME).write_bytes(left)
    with Journal(tmp_path, {"seed": 1}) as journal:
        journal.record(entry(1))
    with Journal(tmp_path, {"seed": 1}) as journal:
        assert set(journal.done) == {(0, 1)}


def test_the_journal_of_another_request_server_or_run_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with Journal(folder, {"seed": 1, "block": None}) as journal:
        journal.begin({"comfyui": "0.33"})
        with pytest.raises(RequestError, match="Another run is using"):
            Journal(folder, {"seed": 1, "block": None}).__enter__()
    with pytest.raises(RequestError, match="holds a comparison with other seed"):
        Journal(folder, {"seed": 2, "block": None}).__enter__()
    with Journal(folder, {"seed": 1, "block": None}) as journal, pytest.raises(RequestError, match="with comfyui"):
        journal.begin({"comfyui": "0.34"})


@pytest.mark.parametrize("content", [b"x\n", b"[]\n", b'{"format": "other"}\n', b"\xff\n", b"my notes"])
def test_a_file_that_is_no_journal_is_kept(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(RequestError, match="is no journal of this version"):
        Journal(tmp_path, {}).__enter__()
    assert (tmp_path / NAME).read_bytes() == content


def test_the_files_are_made_from_the_json(comparison: Callable[..., Any]) -> None:
    made = comparison("first.safetensors", "second.safetensors")
    assert read_result(made.folder / "bench.json") == made.result
    shown = (made.folder / "bench.md").read_text("utf-8")
    assert "The CPU has no NVFP4 tensor cores" in shown and "second.safetensors, picture 3: it was cancelled" in shown
    assert "| first.safetensors | reference |" in shown and "| 2 GB | 1 GB |" in shown
    assert "the most that everything on the machine used" in shown
    second = made.result["models"][1]
    assert second["quality"]["psnr_db"]["mean"] == pytest.approx(20 * np.log10(255 / 3))
    assert second["quality"]["pairs"] == 3 and second["failed"] == 1
    for name in ("contact-sheet.png", "times.png", "psnr.png"):
        picture = np.asarray(Image.open(made.folder / name))
        assert picture.shape[1] > 600 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 10


def test_a_load_shorter_than_the_times_vary_is_no_load_of_zero_seconds(comparison: Callable[..., Any]) -> None:
    made = comparison("first.safetensors", "second.safetensors")
    for model, load in zip(made.result["models"], (-0.2, 1.25), strict=True):
        model["load_s"] = load
    assert "median: first.safetensors less than its times vary, second.safetensors 1.25 s." in page(made.result)


def test_a_single_model_is_timed_alone(comparison: Callable[..., Any]) -> None:
    made = comparison("only.safetensors")
    assert made.result["models"][0]["quality"] is None
    assert "## Quality" not in (made.folder / "bench.md").read_text("utf-8")
    assert {path.name for path in made.folder.glob("*.png")} == {"contact-sheet.png", "times.png"}


def rewritten(made: Any, picture: Image.Image, kind: str, **how: Any) -> dict[str, Any]:
    """What the second model's first picture comes to when the server gave this file instead."""
    path = made.folder / "pictures" / "model-2" / "0001.png"
    picture.save(path, format=kind, **how)
    entries = copy.deepcopy(made.result["generations"])
    for one in entries:
        one.pop("scores", None)
    add_scores(entries, 0, made.folder, lambda done, total, label: None)
    sheet = contact_sheet({**made.result, "generations": entries}, made.folder)
    assert sheet is not None and sheet.width < 2000 and sheet.height < 10_000
    return next(one for one in entries if (one["model"], one["picture"]) == (1, 1))


def test_what_a_server_sends_as_a_picture_is_one_or_has_no_quality(comparison: Callable[..., Any]) -> None:
    made = comparison("first.safetensors", "second.safetensors")
    one, other = Image.new("RGB", (32, 24), (9, 8, 7)), Image.new("RGB", (32, 24))
    assert rewritten(made, one, "WEBP", lossless=True)["scores"]["psnr_db"] > 0
    film = rewritten(made, one, "WEBP", save_all=True, append_images=[other])
    assert film["unscored"] == "0001.png is a film of several pictures, whose quality is not measured."
    assert "no whole PNG, JPEG or WebP" in rewritten(made, one, "EPS")["unscored"], "Pillow would start Ghostscript"
    assert "no whole PNG" in rewritten(made, one, "TIFF")["unscored"]
    large = rewritten(made, Image.new("1", (8193, 4096)), "PNG")
    assert large["unscored"] == "0001.png has 8193 x 4096 pixels, more than 33554432."


@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000)])
def test_pictures_far_from_square_fit_on_the_sheet(comparison: Callable[..., Any], size: tuple[int, int]) -> None:
    made = comparison("first.safetensors")
    Image.new("RGB", size, (9, 8, 7)).save(made.folder / "pictures" / "model-1" / "0001.png")
    sheet = contact_sheet(made.result, made.folder)
    assert sheet is not None and sheet.height < 5000


def test_a_lost_picture_is_named_without_the_folders_of_this_machine(comparison: Callable[..., Any]) -> None:
    made = comparison("first.safetensors")
    for content in (None, b"", b"no picture"):
        path = made.folder / "pictures" / "model-1" / "0001.png"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(PictureError) as caught:
            read_picture(path)
        assert str(caught.value).startswith("0001.png is ") and str(made.folder) not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.pop("models"),
        lambda found: found["models"][0].pop("quality"),
        lambda found: found["request"].update(reference="x"),
        lambda found: found["generations"][0].update(model=7),
        lambda found: found["generations"][0].update(pictures=["pictures/../../secret.png"]),
        lambda found: found["generations"][0].update(pictures=["/secret.png"]),
    ],
)
def test_a_result_that_was_changed_is_refused(comparison: Callable[..., Any], change: Callable[[Any], Any]) -> None:
    made = comparison("first.safetensors", "second.safetensors")
    change(made.result)
    (made.folder / "bench.json").write_text(json.dumps(made.result), "utf-8")
    with pytest.raises(BenchError, match="was changed or cut off"):
        read_result(made.folder / "bench.json")


def test_a_file_that_is_no_result_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    for content, said in (
        ("{", "is no JSON"),
        ("[]", "is no result"),
        ('{"format": "nvfp4-studio-bench"}', "version None"),
    ):
        path.write_text(content, "utf-8")
        with pytest.raises(BenchError, match=said):
            read_result(path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--models", "a", "a"), "--models a is given twice."),
        (("--models", "a", "--reference", "b"), "--reference b: choose one of a."),
        (("--models", "a", "b", "--block", "1"), "--block 1 would load a model for every image"),
        (("--models", "a", "-n", "1000000"), "at most 100000 prompts"),
        (("--models", "a", "b"), "There is no workflow absent.json."),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(run: Any, words: tuple[str, ...], said: str) -> None:
    result = run("bench", "--server", "http://127.0.0.1:9", "--workflow", "absent.json", *words)
    assert result.status == 1 and said in result.err and len(result.err.splitlines()) == 1


@pytest.mark.parametrize("count", ["0", "-3", "many", "1.5"])
def test_a_count_is_a_whole_number(run: Any, count: str) -> None:
    words = ("--server", "http://127.0.0.1:9", "--workflow", "x.json", "--models", "a", "-n", count)
    result = run("bench", *words)
    assert result.status == 2 and f"{count} is no whole number from 1 on" in result.err
