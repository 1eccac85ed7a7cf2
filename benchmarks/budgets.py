"""Are plans that a budget chose closer to the source than hand-made recipes of the same size? On two trained models.

    python benchmarks/budgets.py [--seeds 40] [--models flux sd3] [--json FILE]
    python benchmarks/budgets.py --write-readme

The models are those of `picture_quality.py`. Each is calibrated on pictures that are not measured, its layers'
sensitivity and influence are measured, and for every hand-made recipe formats are chosen within the bytes that the recipe
needs: among the layers that the family's rules let change, among all layers of the blocks (`--beyond-rules`), and the same
by the layers' own errors alone, without influence. FP8 layers stay as the source has them, so the same bytes are the same
share of NVFP4. All are sampled as stock ComfyUI would with quantized activations. One thread; about 20 minutes of CPU time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from budgeting.table import BEGIN, END, table
from picture_quality import about
from quality.pictures import calibrate, draw, mean_and_interval, psnr_by_seed
from readme import write_between
from sensitivity_check import probed
from torch import Tensor

from nvfp4_studio.calibration import Calibration
from nvfp4_studio.converters import Options, Plan, Recipe, convert, load_recipe, make_plan, open_source
from nvfp4_studio.converters.budget import Budget, Totals, choose, permitted, recipe_of, totals_of
from nvfp4_studio.converters.budget.curve import best_of_formats
from nvfp4_studio.converters.planning.decide import context_of
from nvfp4_studio.converters.recipe import Rule
from nvfp4_studio.converters.sensitivity import Sensitivity, choices_of, measure_sensitivity
from nvfp4_studio.demo.runtime import Linear, load_model
from nvfp4_studio.demo.train import CHECKPOINTS

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "budgets.json"
SEEDS, FIRST_SEED = 40, 10_000
CALIBRATION_SEEDS = range(4)


def hand_made(model: str) -> dict[str, Recipe]:
    """The family's recipe, and what some converters do in its place."""
    family = load_recipe(model)
    name, kept = {"flux": ("text attention kept", "txt_attn."), "sd3": ("attention kept", "attn.")}[model]
    return {model: family, f"{model}, {name}": replace(family, rules=(Rule("keep", (kept,)), *family.rules))}


@dataclass(frozen=True)
class Way:
    """How formats are chosen within a recipe's bytes."""

    beyond_rules: bool
    influence: bool


WAYS = {
    "budget": Way(beyond_rules=False, influence=True),
    "budget, own errors only": Way(beyond_rules=False, influence=False),
    "budget beyond rules": Way(beyond_rules=True, influence=True),
    "budget beyond rules, own errors only": Way(beyond_rules=True, influence=False),
}


class Bench:
    """One model with everything that is measured of it once."""

    def __init__(self, name: str, folder: Path, seeds: range) -> None:
        self.path, self.folder, self.seeds = CHECKPOINTS[name], folder, seeds
        self.calibration: Calibration = calibrate(self.path, CALIBRATION_SEEDS, "curvature")
        model = load_model(self.path)
        influence = probed(model, {name: part for name, part in model.named_modules() if isinstance(part, Linear)})
        with open_source(self.path) as source:
            measured = measure_sensitivity(
                source, self.calibration, choices_of(("nvfp4",), ("auto",)), influence=influence
            )
        self.sensitivity = {True: measured, False: without_influence(measured)}
        self.reference = draw(self.path, seeds, quantize_activations=True)

    def compare(self, recipe: Recipe) -> dict[str, Any]:
        """A recipe and all budgets of its size. A plan that equals an earlier one is not drawn again."""
        plan = self.plan(recipe)
        size = self.totals(plan).bytes
        by_hand = self.drawn(recipe)
        found = {"recipe": {**self.facts(plan), **self.distance(by_hand)}}
        known = {nvfp4_layers(plan): by_hand}
        for name, way in WAYS.items():
            chosen = self.chosen(size, way)
            plan = self.plan(chosen)
            layers = nvfp4_layers(plan)
            if layers not in known:
                known[layers] = self.drawn(chosen)
            found[name] = {**self.facts(plan), **self.distance(known[layers], by_hand)}
            print(f"  {name}: {found[name]['psnr_db']} dB, predicted {found[name]['predicted_db']} dB", flush=True)
        return found

    def chosen(self, size: int, way: Way) -> Recipe:
        """The family's recipe with what is best within so many bytes."""
        with open_source(self.path) as source:
            context = context_of(source, Options(), self.calibration)
            rules = permitted(context, beyond_rules=way.beyond_rules)
        selection = choose(self.sensitivity[way.influence], Budget("size", size), permitted=rules)
        assert selection.exact
        return recipe_of(selection, context.recipe, rules)

    def plan(self, recipe: Recipe) -> Plan:
        with open_source(self.path) as source:
            return make_plan(source, Options(recipe=recipe), self.calibration)

    def drawn(self, recipe: Recipe) -> Tensor:
        target = self.folder / "converted.safetensors"
        options = Options(recipe=recipe)
        convert(self.path, target, options, calibration=self.calibration, device="cpu", overwrite=True)
        return draw(target, self.seeds, quantize_activations=True)

    def totals(self, plan: Plan) -> Totals:
        placed = best_of_formats(self.sensitivity[True], plan)
        assert placed is not None
        return totals_of(self.sensitivity[True], placed)

    def facts(self, plan: Plan) -> dict[str, Any]:
        """Size, share of NVFP4 among the weights of all matrices, and what is predicted."""
        weights = {layer.name: layer.shape[0] * layer.shape[1] for layer in plan.layers}
        packed = sum(weights[name] for name in nvfp4_layers(plan))
        totals = self.totals(plan)
        return {
            "nvfp4_layers": len(nvfp4_layers(plan)),
            "nvfp4_share": round(packed / sum(weights.values()), 4),
            "bytes": totals.bytes,
            "predicted_db": round(totals.error_db, 2),
        }

    def distance(self, pictures: Tensor, by_hand: Tensor | None = None) -> dict[str, Any]:
        """PSNR to the source's pictures, and what it is more than the recipe's, paired by seed, each with its interval."""
        values = psnr_by_seed(self.reference, pictures)
        mean, interval = mean_and_interval(values)
        found = {"psnr_db": round(mean, 3), "interval_db": round(interval, 3)}
        if by_hand is not None:
            pairs = zip(values, psnr_by_seed(self.reference, by_hand), strict=True)
            mean, interval = mean_and_interval([value - other for value, other in pairs])
            found |= {"over_recipe_db": round(mean, 3), "over_recipe_interval_db": round(interval, 3)}
        return found | {"by_seed_db": [round(value, 3) for value in values]}


def without_influence(sensitivity: Sensitivity) -> Sensitivity:
    """As if every layer's error reached the output in full."""
    return replace(sensitivity, layers=tuple(replace(layer, influence=1.0) for layer in sensitivity.layers))


def nvfp4_layers(plan: Plan) -> tuple[str, ...]:
    return tuple(layer.name for layer in plan.layers if layer.format == "nvfp4")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"seeds for each class (default {SEEDS})")
    parser.add_argument("--models", nargs="+", choices=CHECKPOINTS, default=list(CHECKPOINTS))
    parser.add_argument("--json", type=Path, help=f"where the result goes (default: {RESULT.name} for a full run)")
    parser.add_argument(
        "--write-readme", action="store_true", help="run nothing, put the last result into benchmarks/README.md"
    )
    parser.add_argument("--readme", type=Path, default=ROOT / "benchmarks" / "README.md", help="the page to write into")
    options = parser.parse_args()
    if options.write_readme:
        write_between(options.readme, BEGIN, END, table(json.loads((options.json or RESULT).read_text("utf-8"))))
        return 0
    torch.set_num_threads(1)
    result = {**about(options.seeds), "models": {}}
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(name, Path(folder), range(FIRST_SEED, FIRST_SEED + options.seeds))
            result["models"][name] = {}
            for label, recipe in hand_made(name).items():
                print(f"{name}, {label}", flush=True)
                result["models"][name][label] = bench.compare(recipe)
    print(f"\n{table(result)}")
    full = options.seeds >= SEEDS and len(options.models) == len(CHECKPOINTS)
    target = options.json or (RESULT if full else None)
    if target:
        target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
