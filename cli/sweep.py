"""`nvfp4-studio sweep`: many configurations predicted from one measurement, and those that convince written."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .interrupt import Interrupt, Interrupted
from .options import add_timesteps, influence_of, read_calibration, stem_of
from .progress import Bar
from .text import words

if TYPE_CHECKING:
    from ..calibration import Calibration, Section
    from ..converters import Options, Source
    from ..converters.sensitivity import Sensitivity
    from ..converters.sweep import Asked, Row, SweepResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="the checkpoint: a file, an index of shards or a folder")
    parser.add_argument("--calibration", metavar="C", required=True, help="calibration with detail curvature")
    parser.add_argument(
        "--recipes",
        metavar="R",
        nargs="+",
        default=[],
        help="built-in recipes or .json files; default the family's own",
    )
    parser.add_argument(
        "--roundings", metavar="M", nargs="+", default=["auto"], help="for all that holds NVFP4, default auto"
    )
    parser.add_argument(
        "--formats",
        metavar="F",
        nargs="+",
        help="each for all layers of each target: policies of recipes, and fp8-row, int4-g128, int3-g128, int2-g64, which "
        "are simulated because ComfyUI has no kernel for them; default nvfp4 mxfp8 float8_e4m3fn int8_tensorwise and these",
    )
    parser.add_argument(
        "--targets",
        metavar="T",
        nargs="+",
        default=["all"],
        help="all, or parts of layers' names such as attn; default all",
    )
    parser.add_argument(
        "--budgets", metavar="B", nargs="+", default=[], help="budgets to choose formats by, in quotes, as for plan"
    )
    add_timesteps(parser, "uniform", "uniform")
    parser.add_argument(
        "--influence", metavar="JSON", help="measured influence of each layer; default: beside the calibration"
    )
    parser.add_argument(
        "--kernels", metavar="K", default="rtx-5090", help="table of kernel speeds, default %(default)s"
    )
    parser.add_argument(
        "--out",
        metavar="STEM",
        help="write STEM.json and STEM.md, and what --write names; default SRC-sweep beside SRC",
    )
    parser.add_argument(
        "--write", metavar="NAME", nargs="+", default=[], help="convert these, by id or name, to STEM-NAME.safetensors"
    )
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="where to compute")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files that --write names")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    from ..converters import open_source

    asked = _asked(arguments)
    asked.check()
    stem = stem_of(arguments, "sweep")
    calibration = read_calibration(arguments.calibration)
    with open_source(arguments.source) as source, Interrupt() as interrupt, Bar() as bar:
        found = _found(arguments, source, calibration, asked, stem, bar, interrupt)
    _save(found, stem)
    if arguments.json:
        print(json.dumps(found.to_json(), indent=1, allow_nan=False))
    else:
        print(words(_sections(found)))
        print(f"\nWrote {stem}.json and {stem}.md.")
    for row in [_writable(found, name, stem) for name in arguments.write]:
        _write(arguments, row.name, found.options[row.name], calibration, stem)
    return 0


def _asked(arguments: argparse.Namespace) -> Asked:
    from ..converters.sweep import Asked
    from ..converters.sweep.configurations import DEFAULT_FORMATS

    return Asked(
        recipes=tuple(arguments.recipes),
        roundings=tuple(arguments.roundings),
        formats=tuple(arguments.formats or DEFAULT_FORMATS),
        targets=tuple(arguments.targets),
        budgets=tuple(arguments.budgets),
    )


def _found(
    arguments: argparse.Namespace,
    source: Source,
    calibration: Calibration,
    asked: Asked,
    stem: Path,
    bar: Bar,
    interrupt: Interrupt,
) -> SweepResult:
    """What was measured stays beside the result, so that a sweep that is cut off, or repeated with other recipes, goes on."""
    from ..converters import Cancelled
    from ..converters.convert import chosen_device
    from ..converters.sweep import sweep

    try:
        return sweep(
            source,
            calibration,
            _measured(arguments, source, calibration, asked, stem, bar, interrupt),
            asked,
            calibration_name=Path(arguments.calibration).name,
            device=chosen_device(arguments.device),
            unfinished=stem.with_name(f".{stem.name}.simulated"),
            progress=bar,
            cancelled=interrupt,
        )
    except Cancelled as error:
        raise Interrupted(str(error), interrupt.status) from error


def _measured(
    arguments: argparse.Namespace,
    source: Source,
    calibration: Calibration,
    asked: Asked,
    stem: Path,
    bar: Bar,
    interrupt: Interrupt,
) -> Sensitivity:
    from ..converters import Options
    from ..converters.convert import chosen_device
    from ..converters.kernels import load_table
    from ..converters.planning.decide import context_of
    from ..converters.sensitivity import measure_sensitivity
    from ..converters.sweep.configurations import choices_needed

    choices = choices_needed(context_of(source, Options(), calibration), asked)
    return measure_sensitivity(
        source,
        calibration,
        choices,
        calibration_name=Path(arguments.calibration).stem,
        weighting=arguments.timesteps,
        influence=influence_of(arguments.calibration, arguments.influence),
        kernels=load_table(arguments.kernels),
        device=chosen_device(arguments.device),
        unfinished=stem.with_name(f".{stem.name}.measured"),
        progress=bar,
        cancelled=interrupt,
    )


def _sections(found: SweepResult) -> Sequence[Section]:
    from ..converters.sweep.page import sweep_sections

    return sweep_sections(found)


def _save(found: SweepResult, stem: Path) -> None:
    from ..calibration import markdown
    from ..calibration.files import write_atomically

    data = json.dumps(found.to_json(), indent=1, allow_nan=False) + "\n"
    write_atomically(stem.with_name(f"{stem.name}.json"), data.encode())
    text = markdown(f"Sweep over {found.source}", _sections(found))
    write_atomically(stem.with_name(f"{stem.name}.md"), text.encode())


def _writable(found: SweepResult, name: str, stem: Path) -> Row:
    from ..converters import ConversionError

    row = found.row(name)
    if row is None:
        raise ConversionError(
            f"There is no configuration {name[:60]!r} in this sweep; choose an id or name of {stem}.json."
        )
    if row.name not in found.options:
        reason = "ComfyUI cannot run it" if row.simulated else "it is the source itself"
        raise ConversionError(f"{row.name} cannot be written: {reason}; choose another configuration.")
    return row


def _write(arguments: argparse.Namespace, name: str, options: Options, calibration: Calibration, stem: Path) -> None:
    """Convert one configuration; a file that an earlier run wrote with the same options is left as it is."""
    from ..converters import Cancelled, convert, report_stem

    target = stem.with_name(f"{stem.name}-{_file_name(name)}.safetensors")
    if not arguments.overwrite and _is_written(target, arguments, options, calibration):
        print(f"{target} was written before.")
        return
    with Interrupt() as interrupt, Bar() as bar:
        try:
            report = convert(
                arguments.source,
                target,
                options,
                calibration=calibration,
                calibration_name=Path(arguments.calibration).name,
                device=arguments.device,
                overwrite=arguments.overwrite,
                progress=bar,
                cancelled=interrupt,
            )
        except Cancelled as error:
            raise Interrupted(str(error), interrupt.status) from error
    report.write(report_stem(target))
    print(f"Wrote {target}: {report.summary['output_bytes'] / 1e6:.2f} MB, verified.")


def _file_name(name: str) -> str:
    """A name that every file system takes: a budget has < and >."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)


def _is_written(target: Path, arguments: argparse.Namespace, options: Options, calibration: Calibration) -> bool:
    """Whether a file is there and its header tells of the same conversion of the same source by name."""
    from ..converters import make_plan, open_source
    from ..converters.planning.passthrough import PROVENANCE_KEY

    if not target.is_file():
        return False
    with open_source(target) as written, open_source(arguments.source) as source:
        plan = make_plan(source, options, calibration, Path(arguments.calibration).name)
        made = [json.loads(metadata.get(PROVENANCE_KEY, "{}")) for metadata in (written.metadata, plan.metadata)]
    return all(entry.pop("source_sha256", None) is not None for entry in made) and made[0] == made[1]
