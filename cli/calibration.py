"""`nvfp4-studio calibration`: show, merge, import and export calibrations."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import read_calibration
from .text import table

if TYPE_CHECKING:
    from ..calibration import Calibration

LARGEST_SHOWN = 12
FORMS = ("flat", "detailed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def add(name: str, help: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", allow_abbrev=False)
        action.set_defaults(run_action=run)
        return action

    show = add("show", "what a calibration holds", _show)
    show.add_argument("file", metavar="FILE", help="a calibration, or comfy-dit-quantizer's JSON")
    show.add_argument("--json", action="store_true", help="print it, with every layer, as JSON")
    show.add_argument("--plot", metavar="PNG", help="draw the layers' ranges into a picture")

    merge = add("merge", "add calibrations of one model together; the order does not matter", _merge)
    merge.add_argument("files", metavar="FILE", nargs="+", help="calibrations of the same model")
    merge.add_argument("--out", metavar="DST", required=True, help="the file to write")

    read = add("import", "read comfy-dit-quantizer's JSON, either form", _import)
    read.add_argument("source", metavar="JSON", help="the file to read")
    read.add_argument("target", metavar="DST", help="the calibration to write, a .safetensors file")

    write = add("export", "write comfy-dit-quantizer's JSON", _export)
    write.add_argument("source", metavar="FILE", help="the calibration to read")
    write.add_argument("target", metavar="JSON", help="the file to write")
    write.add_argument(
        "--form", choices=FORMS, default="flat", help="layer: amax, or six noise bins a layer; default flat"
    )

    for action in (merge, read, write):
        action.add_argument("--overwrite", action="store_true", help="replace an existing file")


def run(arguments: argparse.Namespace) -> int:
    status: int = arguments.run_action(arguments)
    return status


def _show(arguments: argparse.Namespace) -> int:
    calibration = read_calibration(arguments.file)
    if arguments.plot:
        from ..calibration import CalibrationError

        if not arguments.plot.lower().endswith(".png"):
            raise CalibrationError(f"The picture {arguments.plot} must end in .png.")
        from ..converters.plots import calibration_plot

        calibration_plot(calibration).save(arguments.plot)
    if arguments.json:
        print(json.dumps(describe(calibration), indent=1))
        return 0
    print(calibration.summary())
    coverage = calibration.coverage()
    print(f"layers: {coverage.observed} of {coverage.total} observed; samplings: {calibration.samplings}")
    if calibration.steps:
        missing = coverage.missing_ranges()
        seen = f"noise schedule: {coverage.schedule_seen:.0%} seen"
        print(f"{seen}, nothing at noise levels {missing}" if missing else seen)
    for name, count in calibration.nonfinite_layers().items():
        print(f"NaN or infinite: {count} values in {name}")
    for name, reason in calibration.unobserved.items():
        print(f"not observed: {name}: {reason}")
    largest = sorted(calibration.layers.items(), key=lambda item: -item[1].amax)[:LARGEST_SHOWN]
    rows = [(name, f"{layer.amax:.6g}", layer.calls, layer.rows, layer.elements) for name, layer in largest]
    if rows:
        print(f"\n{table(('largest inputs', 'amax', 'calls', 'rows', 'elements'), rows)}")
    return 0


def describe(calibration: Calibration) -> dict[str, Any]:
    """Everything but the histograms, as data."""
    coverage = calibration.coverage()
    return {
        "summary": calibration.summary(),
        "samplings": calibration.samplings,
        "images": calibration.images,
        "steps": calibration.steps,
        "schedule": calibration.schedule.tolist(),
        "coverage": {
            "observed": coverage.observed,
            "total": coverage.total,
            "schedule_seen": coverage.schedule_seen,
            "missing_noise_levels": coverage.missing_ranges(),
        },
        "unobserved": calibration.unobserved,
        "nonfinite": calibration.nonfinite_layers(),
        "layers": {
            name: {
                "in_features": layer.in_features,
                "out_features": layer.out_features,
                "calls": layer.calls,
                "rows": layer.rows,
                "elements": layer.elements,
                "amax": layer.amax,
                "schedule_amax": layer.schedule_amax.tolist(),
            }
            for name, layer in calibration.layers.items()
        },
    }


def _merge(arguments: argparse.Namespace) -> int:
    from ..calibration import merge_files

    return _write(merge_files(arguments.files), arguments)


def _import(arguments: argparse.Namespace) -> int:
    from ..calibration import import_json

    return _write(import_json(arguments.source), arguments)


def _export(arguments: argparse.Namespace) -> int:
    from ..calibration import export_json, load

    calibration = load(arguments.source)
    target = _free(arguments.target, arguments.overwrite)
    export_json(calibration, target, arguments.form)
    print(f"Wrote {target}: {len(calibration.layers)} layers, {arguments.form} form.")
    return 0


def _write(calibration: Calibration, arguments: argparse.Namespace) -> int:
    from ..calibration import save

    target = _free(arguments.out if arguments.action == "merge" else arguments.target, arguments.overwrite)
    save(calibration, target)
    print(f"Wrote {target}: {calibration.summary()}")
    return 0


def _free(path: str, overwrite: bool) -> Path:
    from ..calibration import CalibrationError

    if Path(path).exists() and not overwrite:
        raise CalibrationError(f"{path} exists already; choose another name or add --overwrite.")
    return Path(path)
