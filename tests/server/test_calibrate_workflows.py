"""What `nvfp4-studio calibrate` finds in common kinds of workflows, by what a real server says of its nodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nvfp4_studio.cli.servers.errors import RequestError
from nvfp4_studio.cli.servers.factors import apply, find_factors
from nvfp4_studio.cli.servers.insertion import with_calibration
from nvfp4_studio.cli.servers.workflow import Graph, read_workflow

EXAMPLES = Path(__file__).resolve().parents[2] / "example_workflows"
EXAMPLE = "nvfp4_calibrate_on_several_servers.json"

Nodes = dict[str, tuple[str, dict[str, Any]]]

ENCODERS: Nodes = {
    "20": ("CLIPLoader", {"clip_name": "c", "type": "flux"}),
    "21": ("CLIPTextEncode", {"clip": ["20", 0], "text": "positive"}),
    "22": ("CLIPTextEncode", {"clip": ["20", 0], "text": "negative"}),
}
FLUX: Nodes = {
    **ENCODERS,
    "1": ("UNETLoader", {"unet_name": "f", "weight_dtype": "default"}),
    "2": ("LoraLoaderModelOnly", {"model": ["1", 0], "lora_name": "l", "strength_model": 1.0}),
    "3": (
        "ModelSamplingFlux",
        {"model": ["2", 0], "max_shift": 1.15, "base_shift": 0.5, "width": 1024, "height": 1024},
    ),
    "4": ("FluxGuidance", {"conditioning": ["21", 0], "guidance": 3.5}),
    "5": ("BasicGuider", {"model": ["3", 0], "conditioning": ["4", 0]}),
    "6": ("RandomNoise", {"noise_seed": 1}),
    "7": ("BasicScheduler", {"model": ["3", 0], "scheduler": "simple", "steps": 20, "denoise": 1.0}),
    "8": ("KSamplerSelect", {"sampler_name": "euler"}),
    "9": ("EmptySD3LatentImage", {"width": 1024, "height": 1024, "batch_size": 1}),
    "10": (
        "SamplerCustomAdvanced",
        {"noise": ["6", 0], "guider": ["5", 0], "sampler": ["8", 0], "sigmas": ["7", 0], "latent_image": ["9", 0]},
    ),
    "11": ("SaveLatent", {"samples": ["10", 0], "filename_prefix": "x"}),
}


def advanced(model: list[Any], latent: list[Any], start: int, end: int, **more: Any) -> tuple[str, dict[str, Any]]:
    inputs = {
        "model": model, "add_noise": "enable", "noise_seed": 5, "steps": 20, "cfg": 3.5, "sampler_name": "euler",
        "scheduler": "simple", "positive": ["30", 0], "negative": ["30", 1], "latent_image": latent,
        "start_at_step": start, "end_at_step": end, "return_with_leftover_noise": "enable", **more,
    }  # fmt: skip
    return "KSamplerAdvanced", inputs


TWO_MODELS: Nodes = {
    **ENCODERS,
    "1": ("UNETLoader", {"unet_name": "high", "weight_dtype": "default"}),
    "2": ("UNETLoader", {"unet_name": "low", "weight_dtype": "default"}),
    "3": ("ModelSamplingSD3", {"model": ["1", 0], "shift": 8.0}),
    "4": ("ModelSamplingSD3", {"model": ["2", 0], "shift": 8.0}),
    "29": ("VAELoader", {"vae_name": "pixel_space"}),
    "30": (
        "WanImageToVideo",
        {
            "positive": ["21", 0], "negative": ["22", 0], "vae": ["29", 0], "width": 832, "height": 480, "length": 81,
            "batch_size": 1,
        },
    ),
    "5": advanced(["3", 0], ["30", 2], 0, 10),
    "6": advanced(["4", 0], ["5", 0], 10, 10000, add_noise="disable"),
    "7": ("SaveLatent", {"samples": ["6", 0], "filename_prefix": "x"}),
}  # fmt: skip

EDIT: Nodes = {
    "1": ("CheckpointLoaderSimple", {"ckpt_name": "c"}),
    "2": ("LoraLoader", {"model": ["1", 0], "clip": ["1", 1], "lora_name": "l", "strength_model": 1.0, "strength_clip": 1.0}),
    "3": ("PrimitiveStringMultiline", {"value": "make it blue"}),
    "4": ("TextEncodeQwenImageEditPlus", {"clip": ["2", 1], "prompt": ["3", 0]}),
    "5": ("TextEncodeQwenImageEditPlus", {"clip": ["2", 1], "prompt": "ugly"}),
    "6": ("LoadLatent", {"latent": "l"}),
    "7": ("PrimitiveInt", {"value": 3}),
    "8": (
        "KSampler",
        {
            "model": ["2", 0], "seed": ["7", 0], "steps": 8, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple",
            "positive": ["4", 0], "negative": ["5", 0], "latent_image": ["6", 0], "denoise": 1.0,
        },
    ),
    "9": ("SaveLatent", {"samples": ["8", 0], "filename_prefix": "x"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def classes(classic_server: Any) -> dict[str, Any]:
    status, answer = classic_server.request("/object_info")
    assert status == 200
    return answer


def graph(nodes: Nodes, classes: dict[str, Any]) -> Graph:
    return Graph({key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}, classes)


def test_flux_with_custom_sampling(classes: dict[str, Any]) -> None:
    made = graph(FLUX, classes)
    found = find_factors(made)
    assert found.absent == {}
    assert found.places == {
        "prompt": (("21", "text"),),
        "seed": (("6", "noise_seed"),),
        "steps": (("7", "steps"),),
        "guidance": (("4", "guidance"),),
    }
    assert found.sizes == ((("9", "width"), ("9", "height")), (("3", "width"), ("3", "height")))
    calibrated = with_calibration(made)
    node = calibrated.nodes[0]
    assert calibrated.behind == ("UNETLoader (node 1)",) and calibrated.inserted
    assert calibrated.prompt[node]["inputs"]["model"] == ["1", 0]
    assert calibrated.prompt["2"]["inputs"]["model"] == [node, 0], "behind the loader, before the LoRA"


def test_two_models_keep_their_shares_of_the_steps(classes: dict[str, Any]) -> None:
    made = graph(TWO_MODELS, classes)
    found = find_factors(made)
    assert found.absent == {} and found.places["prompt"] == (("21", "text"),)
    assert found.places["guidance"] == (("5", "cfg"), ("6", "cfg"))
    assert found.sizes == ((("30", "width"), ("30", "height")),)
    calibrated = with_calibration(made)
    assert calibrated.behind == ("UNETLoader (node 1)", "UNETLoader (node 2)")
    prompt = calibrated.for_job(["a", "b"], None)
    apply(prompt, found, {"prompt": "p", "seed": 9, "size": (480, 832), "steps": 8, "guidance": 1.0})
    five, six = prompt["5"]["inputs"], prompt["6"]["inputs"]
    assert (five["start_at_step"], five["end_at_step"], five["steps"]) == (0, 4, 8)
    assert (six["start_at_step"], six["end_at_step"], six["steps"]) == (4, 10000, 8)
    assert (five["noise_seed"], six["cfg"], prompt["21"]["inputs"]["text"]) == (9, 1.0, "p")
    assert prompt["22"]["inputs"]["text"] == "negative"
    assert (prompt["30"]["inputs"]["width"], prompt["30"]["inputs"]["height"]) == (480, 832)
    named = {prompt[node]["inputs"]["name"]: prompt[node]["inputs"]["mode"] for node in calibrated.nodes}
    assert named == {"a": "restart", "b": "restart"}
    assert made.prompt["5"]["inputs"]["end_at_step"] == 10


def test_one_of_two_models_can_be_chosen(classes: dict[str, Any]) -> None:
    calibrated = with_calibration(graph(TWO_MODELS, classes), ["2"])
    assert calibrated.behind == ("UNETLoader (node 2)",)
    assert calibrated.prompt["3"]["inputs"]["model"] == ["1", 0]


def test_values_in_nodes_of_their_own_and_what_is_absent(classes: dict[str, Any]) -> None:
    made = graph(EDIT, classes)
    found = find_factors(made)
    assert found.places["prompt"] == (("3", "value"),) and found.places["seed"] == (("7", "value"),)
    assert found.places["guidance"] == (("8", "cfg"),)
    assert found.absent == {"size": "no empty latent with width and height was found"}
    calibrated = with_calibration(made)
    node = calibrated.nodes[0]
    assert calibrated.prompt["2"]["inputs"] == {**EDIT["2"][1], "model": [node, 0]}


def test_merged_models_are_calibrated_behind_the_merge(classes: dict[str, Any]) -> None:
    nodes = {**FLUX, "40": ("UNETLoader", {"unet_name": "g", "weight_dtype": "default"})}
    nodes["41"] = ("ModelMergeSimple", {"model1": ["1", 0], "model2": ["40", 0], "ratio": 0.5})
    nodes["2"] = ("LoraLoaderModelOnly", {"model": ["41", 0], "lora_name": "l", "strength_model": 1.0})
    assert with_calibration(graph(nodes, classes)).behind == ("ModelMergeSimple (node 41)",)


def test_controlnet_leads_to_the_right_text(classes: dict[str, Any]) -> None:
    nodes: Nodes = {
        **ENCODERS,
        "1": ("CheckpointLoaderSimple", {"ckpt_name": "c"}),
        "2": ("ControlNetLoader", {"control_net_name": "n"}),
        "3": ("LoadImage", {"image": "i"}),
        "4": (
            "ControlNetApplyAdvanced",
            {
                "positive": ["21", 0], "negative": ["22", 0], "control_net": ["2", 0], "image": ["3", 0],
                "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0,
            },
        ),
        "5": ("CFGGuider", {"model": ["1", 0], "positive": ["4", 0], "negative": ["4", 1], "cfg": 4.0}),
    }  # fmt: skip
    found = find_factors(graph(nodes, classes))
    assert found.places["prompt"] == (("21", "text"),) and found.places["guidance"] == (("5", "cfg"),)
    assert set(found.absent) == {"seed", "size", "steps"}


def test_own_nodes_are_used_and_the_others_taken_out(classes: dict[str, Any]) -> None:
    nodes = {**TWO_MODELS}
    for key, loader in (("50", "1"), ("51", "2")):
        nodes[key] = ("NVFP4Calibrate", {"model": [loader, 0], "name": f"m{loader}", "mode": "accumulate"})
    nodes["3"] = ("ModelSamplingSD3", {"model": ["50", 0], "shift": 8.0})
    nodes["4"] = ("ModelSamplingSD3", {"model": ["51", 0], "shift": 8.0})
    both = with_calibration(graph(nodes, classes))
    assert both.nodes == ("50", "51") and not both.inserted
    one = with_calibration(graph(nodes, classes), ["51"])
    assert one.nodes == ("51",) and "50" not in one.prompt
    assert one.prompt["3"]["inputs"]["model"] == ["1", 0]


def test_the_example_is_offered_and_its_export_fits_it(classes: dict[str, Any], classic_server: Any) -> None:
    assert EXAMPLE.removesuffix(".json") in classic_server.request("/workflow_templates")[1]["nvfp4-studio"]
    with pytest.raises(RequestError, match=r"Export \(API\)"):
        read_workflow(EXAMPLES / EXAMPLE)
    editor = json.loads((EXAMPLES / EXAMPLE).read_text("utf-8"))
    exported = read_workflow(EXAMPLES / "api" / EXAMPLE)
    drawn = {str(node["id"]): node["type"] for node in editor["nodes"] if node["type"] != "MarkdownNote"}
    assert drawn == {key: node["class_type"] for key, node in exported.items()}
    made = Graph(exported, classes)
    assert find_factors(made).absent == {}
    assert with_calibration(made).behind == ("CheckpointLoaderSimple (node 1)",)
