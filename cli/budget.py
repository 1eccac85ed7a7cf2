"""`--budget` of `plan` and `convert`: a sensitivity read or measured, formats chosen, the recipe and its page kept."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from .interrupt import Interrupt, Interrupted
from .options import add_timesteps, influence_of
from .progress import Bar

if TYPE_CHECKING:
    from ..calibration import Calibration
    from ..converters import Options, Recipe, Source
    from ..converters.budget import BudgetedPlan
    from ..converters.plots import Picture
    from ..converters.sensitivity import Sensitivity

NEEDING_A_BUDGET = {
    "sensitivity": "--sensitivity",
    "timesteps": "--timesteps",
    "kernels": "--kernels",
    "no_ties": "--no-ties",
    "beyond_rules": "--beyond-rules",
}
EXAMPLE = '--budget "size<=0.7"'
"""In quotes: to a shell, < alone means a file to read."""


def add_budget_options(parser: argparse.ArgumentParser) -> None:
    """What belongs to a budget; its help says what it is."""
    group = parser.add_argument_group("formats chosen by measurement")
    group.add_argument(
        "--budget",
        metavar="B",
        help='choose each layer\'s format by its measured output error: "size<=12GB" or "size<=0.8" (of the source) and '
        '"speed>=1.5" (times FP8) for the least error, "quality>=30dB" for the smallest file, each in quotes; needs '
        "--calibration",
    )
    group.add_argument(
        "--sensitivity",
        metavar="S",
        help="what `nvfp4-studio sensitivity` measured (.json); without one it is measured and written beside the source",
    )
    add_timesteps(group, None, "that of the measurement, else uniform")
    group.add_argument(
        "--kernels",
        metavar="K",
        help="table of kernel speeds or a .json file that speeds are predicted by; default that of the measurement, else "
        "rtx-5090",
    )
    group.add_argument(
        "--no-ties", action="store_true", help="layers that share kernels (q, k, v) may get different formats"
    )
    group.add_argument(
        "--beyond-rules",
        action="store_true",
        help="layers that the recipe's rules keep, such as modulation, may change too; what cannot be stored or loaded, "
        "edge blocks and layers outside the blocks stay",
    )
    group.add_argument(
        "--save-recipe",
        metavar="R",
        help="write the chosen recipe, or the one with what --pre-quant search found, for other conversions (.json)",
    )


def check_budget_options(arguments: argparse.Namespace) -> None:
    """Raises PlanError when an option stands without the budget that it belongs to, or a budget without calibration or with
    an option that it decides itself."""
    from ..converters import PlanError

    if arguments.budget is None:
        alone = next((option for name, option in NEEDING_A_BUDGET.items() if getattr(arguments, name)), None)
        if alone is not None:
            elsewhere = ", or let `nvfp4-studio sweep` predict speeds of recipes" if alone == "--kernels" else ""
            raise PlanError(f"{alone} belongs to a budget; add --budget, for example {EXAMPLE}{elsewhere}.")
        if arguments.save_recipe and arguments.pre_quant == "off":
            raise PlanError(
                f"--save-recipe belongs to a budget or a search; add --budget, for example {EXAMPLE}, or --pre-quant search."
            )
    elif not arguments.calibration:
        raise PlanError("A budget chooses by measured errors; add --calibration with detail curvature.")
    elif arguments.rounding not in (None, "auto"):
        raise PlanError(
            "A budget takes the rounding with the least measured error in each layer; leave --rounding out, or measure with "
            f"`nvfp4-studio sensitivity --roundings {arguments.rounding[:40]}` and name its file with --sensitivity."
        )
    elif arguments.pre_quant != "off" or arguments.gain:
        raise PlanError(
            "A budget takes a pre_quant_scale and a gain where they were measured to be best; leave --pre-quant and --gain out, "
            "measure with `nvfp4-studio sensitivity --pre-quant 0.25,0.5 --gain`, and name its file with --sensitivity."
        )


def budgeted(
    arguments: argparse.Namespace, source: Source, options: Options, calibration: Calibration, device: str
) -> BudgetedPlan:
    """The plan within the budget of the arguments; saves the recipe where that is asked for."""
    from ..converters.budget import parse_budget, plan_budget

    budget = parse_budget(arguments.budget)
    sensitivity = _sensitivity(arguments, source, options, calibration, device)
    made = plan_budget(
        source,
        options,
        calibration,
        Path(arguments.calibration).name,
        sensitivity,
        budget,
        ties=not arguments.no_ties,
        beyond_rules=arguments.beyond_rules,
    )
    keep_recipe(arguments, made.recipe)
    return made


def keep_recipe(arguments: argparse.Namespace, recipe: str | Recipe | None) -> None:
    """Save a recipe that was made by measuring, where that is asked for."""
    from ..converters import Recipe, save_recipe

    if arguments.save_recipe and isinstance(recipe, Recipe):
        save_recipe(arguments.save_recipe, recipe)
        print(f"Wrote {arguments.save_recipe}.", file=sys.stderr)


def write_budget(made: BudgetedPlan, stem: Path) -> list[Path]:
    """Write STEM.json, STEM.md and STEM.png. Raises OSError."""
    from ..calibration.files import write_atomically
    from ..converters.budget.page import to_json, to_markdown

    paths = [stem.with_name(stem.name + ending) for ending in (".json", ".md", ".png")]
    picture = io.BytesIO()
    plot_of(made).save(picture, format="PNG")
    text = f"{to_markdown(made)}\n![{made.selection.budget}]({quote(stem.name)}.png)\n"
    contents = (json.dumps(to_json(made), indent=1, allow_nan=False).encode(), text.encode(), picture.getvalue())
    for path, content in zip(paths, contents, strict=True):
        write_atomically(path, content)
    return paths


def plot_of(made: BudgetedPlan) -> Picture:
    """The curve with the chosen plan and the family's recipes."""
    from ..converters.plots.budget import budget_plot

    sensitivity = made.selection.sensitivity
    note = f"{made.selection.budget}: measured with {sensitivity.calibration}, speeds of {sensitivity.kernels}"
    if not sensitivity.influence_measured:
        note += "; sums of the layers' own errors, influence on the output not measured"
    return budget_plot(f"Budgets of {made.plan.source}", note, made.curves)


def _sensitivity(
    arguments: argparse.Namespace, source: Source, options: Options, calibration: Calibration, device: str
) -> Sensitivity:
    """The file that was named, the one beside the source when it is of today's calibration, or a new measurement."""
    from ..converters import Cancelled
    from ..converters.convert import chosen_device
    from ..converters.kernels import load_table
    from ..converters.sensitivity import DEFAULT_WEIGHTING, measure_and_save

    kernels = load_table(arguments.kernels) if arguments.kernels else None
    asked = {"weighting": arguments.timesteps, "kernels": kernels.name if kernels else None}
    wanted = {key: value for key, value in asked.items() if value is not None}
    if arguments.sensitivity:
        return _named(arguments.sensitivity, wanted)
    path = sensitivity_beside(Path(arguments.source))
    earlier = _earlier(path, Path(arguments.calibration), source, options, wanted)
    if earlier is not None:
        return earlier
    with Interrupt() as interrupt, Bar() as bar:
        try:
            measured = measure_and_save(
                source,
                calibration,
                path,
                options=options,
                calibration_name=Path(arguments.calibration).stem,
                weighting=arguments.timesteps or DEFAULT_WEIGHTING,
                kernels=kernels,
                influence=influence_of(arguments.calibration),
                device=chosen_device(device),
                progress=bar,
                cancelled=interrupt,
            )
        except Cancelled as error:
            raise Interrupted(str(error), interrupt.status) from error
    print(f"Wrote {path}.", file=sys.stderr)
    return measured


def sensitivity_beside(source: Path) -> Path:
    """Where `nvfp4-studio sensitivity` writes by default."""
    named = source.resolve()
    stem = named.with_suffix("") if named.suffix == ".safetensors" else named
    return stem.with_name(f"{stem.name}-sensitivity.json")


def _named(path: str, wanted: Mapping[str, str]) -> Sensitivity:
    """The file that was named. Raises SensitivityError when it was measured by another weighting or table than is asked for."""
    from ..converters.errors import SensitivityError
    from ..converters.sensitivity import load

    found = load(path)
    other = next((key for key, value in wanted.items() if getattr(found, key) != value), None)
    if other is not None:
        option = {"weighting": "--timesteps", "kernels": "--kernels"}[other]
        raise SensitivityError(
            f"{path} was measured with {option} {getattr(found, other)}, not {wanted[other][:40]!r}; leave {option} out, or "
            "measure it anew."
        )
    return found


def _earlier(
    path: Path, calibration: Path, source: Source, options: Options, wanted: Mapping[str, str]
) -> Sensitivity | None:
    """What was measured before, None when that was another model, calibration, input_scale or other than wanted."""
    from ..converters.sensitivity import beside, load, source_fingerprint

    inputs = [file for file in (calibration, beside(calibration)) if file.is_file()]
    if not path.is_file() or any(path.stat().st_mtime_ns < file.stat().st_mtime_ns for file in inputs):
        return None
    found = load(path)
    same = (found.calibration, found.input_scale) == (calibration.stem, options.input_scale)
    same = same and all(getattr(found, key) == value for key, value in wanted.items())
    return found if same and found.fingerprint == source_fingerprint(source) else None
