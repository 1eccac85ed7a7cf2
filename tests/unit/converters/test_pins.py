"""Layers pinned in a recipe: before the rules, never against what a model must keep, and told in the file's header."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nvfp4_studio.converters import (
    Options,
    Pin,
    PlanError,
    available_recipes,
    convert,
    load_recipe,
    make_plan,
    open_source,
    recipe_to_json,
    save_recipe,
    with_pins,
)
from nvfp4_studio.converters.recipe_file import parse_recipe

QKV, MLP = "double_blocks.0.img_attn.qkv", "double_blocks.1.img_mlp.0"
PINS = {
    QKV: Pin("keep", reason="worst of all"),
    MLP: Pin("nvfp4", rounding="nearest"),
    "double_blocks.0.img_mod.lin": Pin("mxfp8"),
}
FULL = {
    "a.b": Pin("nvfp4", rounding="gptq", pre_quant_exponent=0.5, gain=True, reason="measured"),
    "a.c": Pin("keep"),
}


def _pinned(**pins: Pin) -> Options:
    return Options(recipe=with_pins(load_recipe("flux"), pins, name="mine", title="pinned by hand"))


@pytest.mark.parametrize("kind", ["bf16", "scaled", "all-in-one"])
def test_pins_come_before_the_rules(checkpoint: Callable[..., Path], kind: str) -> None:
    """Also in a checkpoint whose keys have a prefix: pins are called as calibrations call layers."""
    with open_source(checkpoint(kind)) as source:
        plan = make_plan(source, _pinned(**PINS))
        rules = make_plan(source, Options(recipe="flux"))
    pinned, ruled = ({layer.module: layer for layer in made.layers} for made in (plan, rules))
    assert (pinned[QKV].action, pinned[QKV].reason) == ("copy", "worst of all")
    assert (pinned[MLP].format, pinned[MLP].rounding) == ("nvfp4", "nearest")
    assert pinned["double_blocks.0.img_mod.lin"].format == "mxfp8"
    assert {name: layer for name, layer in pinned.items() if name not in PINS} == {
        name: layer for name, layer in ruled.items() if name not in PINS
    }


def test_the_header_holds_the_recipe_that_made_the_file(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    options = _pinned(**PINS)
    target = tmp_path / "out.safetensors"
    convert(checkpoint("bf16"), target, options)
    with open_source(target) as written:
        made = json.loads(written.metadata["nvfp4_studio"])
    assert made["recipe"] == "mine"
    assert parse_recipe("mine", made["recipe_content"]) == options.recipe


def test_a_built_in_recipe_is_told_by_its_name_alone(checkpoint: Callable[..., Path]) -> None:
    with open_source(checkpoint("bf16")) as source:
        plan = make_plan(source, Options(recipe="flux"))
    assert plan.recipe_content is None
    assert "recipe_content" not in json.loads(plan.metadata["nvfp4_studio"])


@pytest.mark.parametrize("name", available_recipes())
def test_recipes_survive_json(name: str) -> None:
    recipe = with_pins(load_recipe(name), FULL, name="mine", title="é")
    assert parse_recipe("mine", json.loads(json.dumps(recipe_to_json(recipe)))) == recipe


def test_a_saved_recipe_is_read_again(tmp_path: Path) -> None:
    recipe = with_pins(load_recipe("generic"), FULL, name="mine", title="Mine")
    save_recipe(tmp_path / "mine.json", recipe)
    assert load_recipe(str(tmp_path / "mine.json")) == recipe
    with pytest.raises(PlanError, match=r"mine\.txt must end in \.json"):
        save_recipe(tmp_path / "mine.txt", recipe)


def test_later_pins_replace_earlier_ones() -> None:
    first = with_pins(load_recipe("flux"), {"a": Pin("keep"), "b": Pin("keep")}, name="1", title="1")
    second = with_pins(first, {"b": Pin("nvfp4")}, name="2", title="2")
    assert second.layers == {"a": Pin("keep"), "b": Pin("nvfp4")}


def test_a_pin_that_cannot_be_carried_out_is_an_error(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    tensors = load_file(checkpoint("bf16"))
    tensors["double_blocks.1.img_mlp.0.weight"] = torch.zeros(512, 120, dtype=torch.bfloat16)
    save_file(tensors, tmp_path / "odd.safetensors")
    refused = {
        "img_in": (Pin("nvfp4"), "pins layer img_in to nvfp4, which it cannot be .ComfyUI reads the model's size"),
        MLP: (Pin("mxfp8"), f"pins layer {MLP} to mxfp8, which it cannot be"),
        "model.diffusion_model.x": (Pin("keep"), r"'model\.diffusion_model\.x', which odd\.safetensors does not have"),
    }
    with open_source(tmp_path / "odd.safetensors") as source:
        for layer, (pin, said) in refused.items():
            with pytest.raises(PlanError, match=said):
                make_plan(source, _pinned(**{layer: pin}))
        assert make_plan(source, _pinned(img_in=Pin("keep")))


BAD = {
    "list": ([], '"layers" maps layers'),
    "policy": ({"a": {"policy": "int2"}}, "layer 'a' has the policy 'int2'.*keep, float8_e4m3fn, nvfp4"),
    "text": ({"a": "nvfp4"}, "layer 'a' has the policy 'nvfp4'"),
    "field": ({"a": {"policy": "nvfp4", "width": 3}}, "has the field 'width'; a layer has policy, rounding"),
    "rounding": ({"a": {"policy": "nvfp4", "rounding": "best"}}, '"rounding" must be one of auto, four-over-six'),
    "exponent": ({"a": {"policy": "nvfp4", "pre_quant_exponent": 2}}, "must be a number from 0 to 1, not '2'"),
    "not a number": ({"a": {"policy": "nvfp4", "pre_quant_exponent": float("nan")}}, "must be a number from 0 to 1"),
    "gain": ({"a": {"policy": "nvfp4", "gain": 1}}, '"gain" must be true or false'),
    "reason": ({"a": {"policy": "nvfp4", "reason": 1}}, '"reason" must be a text'),
    "of another format": ({"a": {"policy": "keep", "rounding": "gptq"}}, "is keep and has no rounding"),
}


@pytest.mark.parametrize(("layers", "said"), BAD.values(), ids=BAD)
def test_wrong_pins(layers: object, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        parse_recipe("mine", {"rules": [], "layers": layers})
