"""Budgets: what is chosen, what rules forbid, what ties hold together, and the plan that comes of it."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nvfp4_studio.converters import Options, PlanError, load_recipe, make_plan, open_source
from nvfp4_studio.converters.budget import Budget, choose, parse_budget, permitted, plan_budget, published_recipes
from nvfp4_studio.converters.budget.curve import curve
from nvfp4_studio.converters.budget.menu import menu, shared_name
from nvfp4_studio.converters.budget.page import to_json, to_markdown
from nvfp4_studio.converters.errors import SensitivityError
from nvfp4_studio.converters.families import detect_family
from nvfp4_studio.converters.planning.decide import context_of
from nvfp4_studio.converters.plots.budget import budget_plot
from nvfp4_studio.converters.recipe import Blocks
from nvfp4_studio.converters.recipe_file import parse_recipe
from nvfp4_studio.converters.sensitivity import KEEP, Choice, LayerSensitivity, Outcome, Sensitivity
from nvfp4_studio.converters.sensitivity.identity import source_fingerprint

NVFP4, NEAREST, FP8, KEPT = Choice("nvfp4", "gptq"), Choice("nvfp4", "nearest"), Choice("float8_e4m3fn"), Choice(KEEP)


def layer(module: str, weights: int, noise: float, fixed: str = "") -> LayerSensitivity:
    """A BF16 layer whose NVFP4 is four times as fast as BF16 and twice as fast as FP8."""
    outcomes = [
        Outcome(KEPT, 2 * weights, 0.0, 4.0 * weights),
        Outcome(NEAREST, weights * 9 // 16, noise * 1.5, 1.0 * weights),
        Outcome(NVFP4, weights * 9 // 16, noise, 1.0 * weights),
        Outcome(FP8, weights, noise / 10, 2.0 * weights),
    ]
    name, _, kind = module.rpartition(".")
    return LayerSensitivity(
        module, module, kind, name, (weights // 16, 16), 64, 1.0, 2.0 * weights, tuple(outcomes), fixed
    )


def model(*layers: LayerSensitivity) -> Sensitivity:
    return Sensitivity("m", "0", "flux", "c", "p99.9", "uniform", "gpu", 1000, 100.0, layers)


SMALL = model(
    layer("b.0.attn.to_q", 1600, 0.010),
    layer("b.0.attn.to_k", 1600, 0.001),
    layer("b.0.attn.to_v", 1600, 0.100),
    layer("b.0.mlp.0", 6400, 0.020),
    layer("b.0.mlp.2", 6400, 0.004),
    layer("out", 800, 0.500, fixed="last layer"),
)
MODULES = [found.module for found in SMALL.layers]


def formats(budget: str, ties: bool = False, sensitivity: Sensitivity = SMALL) -> dict[str, str]:
    return {
        module: choice.policy for module, choice in choose(sensitivity, parse_budget(budget), ties=ties).choices.items()
    }


def everything() -> list[tuple[int, float, float]]:
    """Bytes, speed and error of every choice of formats with the best rounding."""
    menus = [
        [found.outcome(choice) for choice in (KEPT, NVFP4, FP8) if choice == KEPT or not found.fixed]
        for found in SMALL.layers
    ]
    choices = (dict(zip(MODULES, combination, strict=True)) for combination in itertools.product(*menus))
    return [(SMALL.bytes_of(found), SMALL.speed_of(found), SMALL.error_of(found)) for found in choices]


@pytest.mark.parametrize("part", [0.0, 0.1, 0.35, 0.6, 0.9, 1.0])
def test_no_choice_of_any_format_is_better(part: float) -> None:
    all_of_them = everything()
    sizes, speeds, errors = zip(*all_of_them, strict=True)
    size = min(sizes) + int(part * (max(sizes) - min(sizes)))
    chosen = choose(SMALL, Budget("size", size), ties=False)
    assert chosen.exact and chosen.totals.bytes <= size
    assert chosen.totals.error == pytest.approx(min(error for bytes_, _, error in all_of_them if bytes_ <= size))
    speed = min(speeds) + part * (max(speeds) - min(speeds))
    chosen = choose(SMALL, Budget("speed", speed), ties=False)
    assert chosen.totals.speed >= speed * (1 - 1e-9)
    assert chosen.totals.error == pytest.approx(
        min(error for _, fast, error in all_of_them if fast >= speed * (1 - 1e-9))
    )
    error = max(errors) * 10 ** (-2 * part)
    chosen = choose(SMALL, Budget("quality", -10 * math.log10(error)), ties=False)
    assert chosen.totals.error <= error * (1 + 1e-9)
    assert chosen.totals.bytes == min(size for size, _, other in all_of_them if other <= error * (1 + 1e-9))


def test_the_worst_layer_for_its_size_leaves_nvfp4_first() -> None:
    smallest = choose(SMALL, Budget("quality", 1e-3), ties=False).totals.bytes
    assert formats(f"size<={smallest / 1000}kB") == {**dict.fromkeys(MODULES, "nvfp4"), "out": KEEP}
    a_little_more = formats(f"size<={(smallest + 800) / 1000}kB")
    assert a_little_more == {**dict.fromkeys(MODULES, "nvfp4"), "out": KEEP, "b.0.attn.to_v": "float8_e4m3fn"}


def test_the_rounding_with_the_least_noise_is_taken() -> None:
    assert choose(SMALL, parse_budget("size<=0.4"), ties=False).choices["b.0.mlp.2"] == NVFP4


def test_ties_hold_queries_keys_and_values_together() -> None:
    limit = f"size<={(choose(SMALL, Budget('quality', 1e-3)).totals.bytes + 800) / 1000}kB"
    tied = formats(limit, ties=True)
    assert len({tied[f"b.0.attn.to_{letter}"] for letter in "qkv"}) == 1
    free, held = (choose(SMALL, parse_budget(limit), ties=ties).totals.error for ties in (False, True))
    assert free < held


def test_queries_that_see_another_input_are_not_tied_to_keys_and_values() -> None:
    rows = {"b.0.attn.to_q": 4096.0, "b.0.attn.to_k": 512.0, "b.0.attn.to_v": 512.0}
    crossed = replace(
        SMALL, layers=tuple(replace(found, input_rows=rows.get(found.module, 1.0)) for found in SMALL.layers)
    )
    assert [len(item.layers) for item in menu(SMALL, None, ties=True)] == [3, 1, 1, 1]
    assert [len(item.layers) for item in menu(crossed, None, ties=True)] == [1, 2, 1, 1, 1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a.3.attn.to_q", "a.3.attn.to_v"),
        ("t.attn.add_q_proj", "t.attn.add_k_proj"),
        ("blocks.1.self_attn.q", "blocks.1.self_attn.k"),
        ("layers.1.feed_forward.w1", "layers.1.feed_forward.w3"),
        ("b.mlp.gate_proj", "b.mlp.up_proj"),
        ("x.attn.to_q.0", "x.attn.to_k.0"),
    ],
)
def test_what_shares_kernels(one: str, other: str) -> None:
    assert shared_name(one) == shared_name(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a.3.attn.to_q", "a.4.attn.to_q"),
        ("a.3.attn.to_q", "a.3.attn.add_q_proj"),
        ("b.1.self_attn.q", "b.1.cross_attn.q"),
        ("w.w1", "w.w2"),
        ("a.attn.to_q", "a.attn.to_out.0"),
    ],
)
def test_what_does_not(one: str, other: str) -> None:
    assert shared_name(one) != shared_name(other)


def test_a_layer_has_only_what_rules_permit() -> None:
    rules = {module: frozenset({"nvfp4", "float8_e4m3fn"}) for module in MODULES}
    rules["b.0.mlp.0"] = frozenset({"float8_e4m3fn"})
    del rules["b.0.mlp.2"]
    chosen = choose(SMALL, Budget("quality", 1e-3), permitted=rules, ties=False).choices
    assert (chosen["b.0.mlp.0"].policy, chosen["b.0.mlp.2"].policy, chosen["out"].policy) == (FP8.policy, KEEP, KEEP)
    assert chosen["b.0.attn.to_q"].policy == "nvfp4"


IMPOSSIBLE = {
    "size<=1kB": r"the smallest file that the rules allow has 0\.01 MB; ask for size<=20kB",
    "size<=0.2": r"cannot be kept: the smallest file .*; ask for size<=0\.33\d\d",
    "speed>=3": r"make the model 1\.766 times as fast as FP8; ask for speed>=1\.765",
}


@pytest.mark.parametrize(("budget", "said"), IMPOSSIBLE.items(), ids=IMPOSSIBLE)
def test_an_impossible_budget_is_told_with_what_can_be_had(budget: str, said: str) -> None:
    with pytest.raises(PlanError, match=said) as raised:
        choose(SMALL, parse_budget(budget))
    choose(SMALL, parse_budget(str(raised.value).rpartition("ask for ")[2].rstrip(".")))


def test_a_quality_that_not_even_the_source_has() -> None:
    noisy = model(
        *(
            LayerSensitivity("a", "a", "a", "", (16, 16), 9, 1.0, 1.0, (Outcome(KEPT, 256, 1e-4, 1.0),)),
            LayerSensitivity("b", "b", "b", "", (16, 16), 9, 1.0, 1.0, (Outcome(KEPT, 256, 1e-4, 1.0),)),
        )
    )
    with pytest.raises(PlanError, match=r"is predicted to have 36\.99 dB; ask for quality>=36\.98dB"):
        choose(noisy, parse_budget("quality>=40dB"))


@pytest.mark.parametrize("budget", ["quality>=3000dB", "quality>=9999dB", "quality>=999999999999999"])
def test_a_quality_without_end_keeps_everything(budget: str) -> None:
    assert set(formats(budget).values()) == {KEEP}
    noisy = model(LayerSensitivity("a", "a", "a", "", (16, 16), 9, 1.0, 1.0, (Outcome(KEPT, 256, 1e-4, 1.0),)))
    with pytest.raises(PlanError, match=r"ask for quality>=40dB"):
        choose(noisy, parse_budget(budget))


@pytest.mark.parametrize(
    ("text", "budget", "written"),
    [
        ("size<=12GB", Budget("size", 12e9), "size<=12GB"),
        (" size ≤ 1.5 GiB ", Budget("size", 1.5 * 2**30), "size<=1.610612736GB"),
        ("size<=0.8", Budget("size", 0.8, True), "size<=0.8"),
        ("size<=80%", Budget("size", 0.8, True), "size<=0.8"),
        ("speed>=1.5x", Budget("speed", 1.5), "speed>=1.5"),
        ("quality>=30dB", Budget("quality", 30), "quality>=30dB"),
    ],
)
def test_budgets_are_read_and_written(text: str, budget: Budget, written: str) -> None:
    assert parse_budget(text) == budget
    assert (str(budget), parse_budget(str(budget))) == (written, budget)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("12GB", "'12GB' is no budget; write size<=12GB"),
        ("size>=12GB", "A size is bounded by <=, not >="),
        ("speed<=2", "A speed is bounded by >="),
        ("speed>=2GB", "A speed is not told in 'GB'"),
        ("size<=12", "bounds nothing that could be"),
        ("quality>=0", "bounds nothing that could be"),
        ("size<=1e9", "is no budget|not told in 'e'"),
    ],
)
def test_no_budgets(text: str, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        parse_budget(text)


def test_the_curve_ends_where_everything_is_kept_and_gets_no_worse() -> None:
    found = curve(SMALL, menu(SMALL, None, False), "size")
    assert found[0].bytes == min(size for size, _, _ in everything())
    assert found[-1].error == 0 and found[-1].bytes == 1000 + 2 * (3 * 1600 + 2 * 6400 + 800)
    assert [a.error > b.error and a.bytes < b.bytes for a, b in itertools.pairwise(found)] == [True] * (len(found) - 1)


def measured(path: Path) -> Sensitivity:
    """A made-up sensitivity of a checkpoint: each layer of the blocks worse than the one before."""
    with open_source(path) as source:
        plan = make_plan(source, Options(recipe="weight-only"))
        found = []
        inside = [decision for decision in plan.layers if decision.component == "diffusion_model"]
        for place, decision in enumerate(inside):
            rows, columns = decision.shape
            made = layer(decision.module, rows * columns, 0.001 * 2**place)
            kept = Outcome(KEPT, decision.bytes_before, 0.0, 4.0 * rows * columns)
            outcomes = (kept, *(outcome for outcome in made.outcomes if outcome.choice in (NEAREST, FP8)))
            found.append(
                LayerSensitivity(**{**vars(made), "name": decision.source_name, "outcomes": outcomes})  # type: ignore[arg-type]
            )
        other = source.size - sum(decision.bytes_before for decision in inside)
        fingerprint = source_fingerprint(source)
    return Sensitivity("m", fingerprint, "flux", "statistics", "p99.9", "uniform", "gpu", other, 0.0, tuple(found))


@pytest.mark.parametrize("kind", ["bf16", "all-in-one"])
def test_the_file_with_its_header_keeps_a_size(checkpoint: Callable[..., Path], kind: str) -> None:
    path = checkpoint(kind)
    sensitivity = measured(path)
    with open_source(path) as source:
        smallest = plan_budget(source, Options(), None, None, sensitivity, parse_budget("quality>=0.1dB"))
        limit = smallest.plan.output_bytes + 50_000
        made = plan_budget(source, Options(), None, None, sensitivity, Budget("size", limit))
        share = round(limit / source.size, 3)
        part = plan_budget(source, Options(), None, None, sensitivity, Budget("size", share, relative=True))
        assert smallest.plan.output_bytes < part.plan.output_bytes <= share * source.size
    assert smallest.plan.output_bytes < made.plan.output_bytes <= limit
    assert [point.name for point in made.curves.recipes] == ["flux"]
    decided = {layer.module: layer for layer in made.plan.layers if layer.component == "diffusion_model"}
    for module, choice in made.selection.choices.items():
        expected = {KEEP: decided[module].source_format}.get(choice.policy, choice.policy)
        assert (decided[module].format, decided[module].rounding) == (expected, choice.rounding)
    assert {choice.policy for choice in made.selection.choices.values()} >= {KEEP, "nvfp4"}
    provenance = json.loads(made.plan.metadata["nvfp4_studio"])
    assert parse_recipe(made.recipe.name, provenance["recipe_content"]) == made.recipe


def test_a_size_is_that_of_what_the_layout_keeps(checkpoint: Callable[..., Path]) -> None:
    """Without its text encoder and VAE an all-in-one file keeps a size that it could not keep with them."""
    path = checkpoint("all-in-one")
    sensitivity = measured(path)
    with open_source(path) as source:
        with pytest.raises(PlanError, match="ask for size<=") as raised:
            plan_budget(source, Options(), None, None, sensitivity, parse_budget("size<=10kB"))
        offered = parse_budget(str(raised.value).rpartition("ask for ")[2].rstrip("."))
        whole = plan_budget(source, Options(), None, None, sensitivity, offered)
        assert offered.limit - 10_000 <= whole.plan.output_bytes <= offered.limit
        alone = Options(layout="diffusion-model")
        less = Budget("size", offered.limit - 10_000)
        assert plan_budget(source, alone, None, None, sensitivity, less).plan.output_bytes <= less.limit


def test_hard_rules_of_the_family_hold(checkpoint: Callable[..., Path]) -> None:
    path = checkpoint("bf16")
    with open_source(path) as source:
        rules = permitted(context_of(source, Options(), None))
        made = plan_budget(source, Options(), None, None, measured(path), parse_budget("quality>=0.1dB"))
    assert {module: bool(policies) for module, policies in rules.items()} == {
        "img_in": False,
        **{f"double_blocks.{n}.{name}": True for n in range(2) for name in ("img_attn.qkv", "img_attn.proj", "img_mlp.0")},
        **{f"double_blocks.{n}.img_mod.lin": False for n in range(2)},
    }  # fmt: skip
    assert {module for module, choice in made.selection.choices.items() if choice.policy != KEEP} == {
        module for module, policies in rules.items() if policies
    }


def test_beyond_rules_only_blocks_limits_and_the_guard_hold(checkpoint: Callable[..., Path]) -> None:
    with open_source(checkpoint("bf16")) as source:
        rules = permitted(context_of(source, Options(), None), beyond_rules=True)
    assert not rules["img_in"]
    assert all("nvfp4" in policies for module, policies in rules.items() if module != "img_in")


def test_a_sensitivity_of_other_weights_is_refused(checkpoint: Callable[..., Path]) -> None:
    sensitivity = measured(checkpoint("fp16"))
    with (
        open_source(checkpoint("bf16")) as source,
        pytest.raises(SensitivityError, match=r"measured on m, and source\.safetensors has other weights"),
    ):
        plan_budget(source, Options(), None, None, sensitivity, parse_budget("size<=0.9"))


def test_nothing_to_convert_is_said(checkpoint: Callable[..., Path]) -> None:
    path = checkpoint("scaled")
    with open_source(path) as source, pytest.raises(PlanError, match="as it is keeps the budget speed>=0.5 best"):
        plan_budget(source, Options(), None, None, measured(path), parse_budget("speed>=0.5"))


def test_a_size_below_a_source_that_nothing_makes_smaller_is_refused_with_what_can_be_had(
    checkpoint: Callable[..., Path],
) -> None:
    path = checkpoint("scaled")
    sensitivity = measured(path)
    kept = tuple(replace(found, outcomes=tuple(map(larger, found.outcomes))) for found in sensitivity.layers)
    with open_source(path) as source:
        for budget in ("size<=0.5", "size<=10kB"):
            with pytest.raises(PlanError, match="cannot be kept: the smallest file that the rules allow has") as raised:
                plan_budget(source, Options(), None, None, replace(sensitivity, layers=kept), parse_budget(budget))
        offered = parse_budget(str(raised.value).rpartition("ask for ")[2].rstrip("."))
        assert offered.limit == pytest.approx(source.size, rel=0.1)
        with pytest.raises(PlanError, match="as it is keeps the budget size<=1.5 best"):
            plan_budget(source, Options(), None, None, replace(sensitivity, layers=kept), parse_budget("size<=1.5"))


def larger(outcome: Outcome) -> Outcome:
    return outcome if outcome.choice == KEPT else replace(outcome, bytes=outcome.bytes * 4)


def test_recipes_of_the_family_lie_beside_the_curve(checkpoint: Callable[..., Path]) -> None:
    path = checkpoint("bf16")
    with open_source(path) as source:
        made = plan_budget(source, Options(), None, None, measured(path), parse_budget("size<=0.85"))
    (point,) = made.curves.recipes
    assert point.name == "flux"
    assert point.best_of_size is not None and point.best_of_speed is not None
    assert point.best_of_size.bytes <= point.totals.bytes and point.best_of_size.error <= point.totals.error
    assert point.best_of_speed.speed >= point.totals.speed and point.best_of_speed.error <= point.totals.error
    page, data = to_markdown(made), json.loads(json.dumps(to_json(made), allow_nan=False))
    assert data["recipes"][0]["name"] == "flux" and data["exact"]
    assert "| `flux` |" in page and "the least error is proven" in page
    assert len(data["items"]) == 6
    picture = budget_plot("Budgets", "", made.curves)
    assert picture.width == 1100 and len(picture.getcolors(1 << 16)) > 10


QWEN = [
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj",
    "attn.to_add_out", "img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2", "img_mod.1", "txt_mod.1",
]  # fmt: skip


def test_v3_v4_and_v5_of_qwen_image_are_points_on_the_curve(tmp_path: Path) -> None:
    """Smaller and further from left to right, and none below the best choice of its size."""
    tensors = {
        f"transformer_blocks.{block}.{name}.weight": torch.ones(64, 64, dtype=torch.bfloat16)
        for block in range(3)
        for name in QWEN
    }
    tensors |= {"txt_norm.weight": torch.ones(3584), "img_in.weight": torch.ones(64, 64, dtype=torch.bfloat16)}
    path = tmp_path / "qwen.safetensors"
    save_file(tensors, path)
    with open_source(path) as source:
        made = plan_budget(source, Options(), None, None, measured(path), parse_budget("size<=0.5"))
    points = {point.name: point for point in made.curves.recipes}
    assert list(points) == ["qwen-image-v3", "qwen-image-v4", "qwen-image-v5"]
    sizes = [point.totals.bytes for point in points.values()]
    errors = [point.totals.error for point in points.values()]
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True)
    for point in points.values():
        assert point.best_of_size is not None and point.best_of_size.error <= point.totals.error
    tied = [item for item in made.selection.items if len(item.layers) > 1]
    assert [len(item.layers) for item in tied] == [3] * 6
    picture = budget_plot("Budgets", "", made.curves)
    assert picture.height == 480


def test_published_recipes_of_a_family() -> None:
    qwen = ["transformer_blocks.0.img_mod.1.weight", "txt_norm.weight", "img_in.weight"]
    assert published_recipes(detect_family(qwen)) == ["qwen-image-v3", "qwen-image-v4", "qwen-image-v5"]


def test_what_a_recipe_keeps_is_forbidden_and_what_it_names_is_not() -> None:
    recipe, blocks = load_recipe("sd3"), Blocks({"joint_blocks.": 24})
    said = {
        "joint_blocks.5.context_block.attn.qkv": None,
        "joint_blocks.0.x_block.attn.qkv": "first or last block",
        "joint_blocks.5.x_block.adaLN_modulation.1": 'rule keep: "adaLN_modulation"',
        "context_embedder": "outside the blocks",
    }
    for key, reason in said.items():
        assert recipe.forbids(f"{key}.weight", (64, 64), "nvfp4", blocks) == reason
    assert recipe.forbids("joint_blocks.5.x_block.attn.qkv.weight", (64, 40), "nvfp4", blocks) is not None
    assert recipe.forbids("joint_blocks.5.x_block.attn.qkv.weight", (64, 40), "float8_e4m3fn", blocks) is None
