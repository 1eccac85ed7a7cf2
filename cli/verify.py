"""`nvfp4-studio verify`: is a converted file what its source promised, and how close are its weights or outputs?"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .interrupt import Interrupt, Interrupted
from .options import read_calibration
from .progress import Bar
from .text import decibels, words

if TYPE_CHECKING:
    from ..converters import Verification
    from ..converters.fidelity import Fidelity

PROBLEMS_SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="the checkpoint that was converted")
    parser.add_argument("target", metavar="DST", help="the converted file")
    parser.add_argument(
        "--activations",
        metavar="C",
        help="a calibration with detail curvature: each quantized layer is computed on the input rows that it kept, as "
        "ComfyUI computes it; without one the weights alone are compared",
    )
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="where outputs are computed")
    parser.add_argument("--markdown", metavar="MD", help="write the tables as a page of Markdown")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(arguments: argparse.Namespace) -> int:
    from ..converters import Cancelled

    with Interrupt() as interrupt, Bar() as bar:
        try:
            found, fidelity = _measured(arguments, interrupt, bar)
        except Cancelled as error:
            raise Interrupted("Cancelled; nothing was changed.", interrupt.status) from error
    if not (found.related or arguments.json):
        print(found.problems[0], file=sys.stderr)
        return 1
    if arguments.markdown:
        _write(arguments, fidelity)
    if arguments.json:
        content = {**_target(arguments), **found.to_json(), "fidelity": fidelity.to_json()}
        print(json.dumps(_without_infinity(content), indent=1, allow_nan=False))
    else:
        _tell(found, fidelity)
    for problem in found.problems[:PROBLEMS_SHOWN]:
        print(problem, file=sys.stderr)
    if len(found.problems) > PROBLEMS_SHOWN:
        print(f"… and {len(found.problems) - PROBLEMS_SHOWN} more; --json lists all of them.", file=sys.stderr)
    return 1 if found.problems else 0


def _measured(arguments: argparse.Namespace, interrupt: Interrupt, bar: Bar) -> tuple[Verification, Fidelity]:
    """Everything that the loader needs, then the layers' errors."""
    from ..converters import open_source
    from ..converters.convert import chosen_device
    from ..converters.pipeline import one_thread
    from ..converters.verify import verify_sources
    from ..converters.verify_outputs import output_fidelity, weight_fidelity

    calibration = read_calibration(arguments.activations) if arguments.activations else None
    device = chosen_device(arguments.device)
    with open_source(arguments.source) as source, open_source(arguments.target) as converted:
        with one_thread():
            found = verify_sources(source, converted, progress=bar, cancelled=interrupt)
        if calibration is None or found.problems:
            return found, weight_fidelity(source, converted, found.layers)
        return found, output_fidelity(source, converted, calibration, device=device, progress=bar, cancelled=interrupt)


def _target(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was verified, so that nobody takes it for another file's verification."""
    path = Path(arguments.target)
    return {"target": path.name, "target_bytes": path.stat().st_size if path.is_file() else None}


def _tell(found: Verification, fidelity: Fidelity) -> None:
    from ..converters.fidelity_page import fidelity_sections

    changed = sum(layer.sqnr_db is not None for layer in found.layers)
    mean, count = found.mean_sqnr_db(), len(found.problems)
    measured = f", mean SQNR {decibels(mean)}" if mean is not None or not count else ""
    print(f"{found.tensors} tensors, {changed} layers changed{measured}.")
    if fidelity.layers:
        print(f"\n{words(fidelity_sections(fidelity))}\n")
    print("Good: everything is as it should be." if not count else f"{count} problem{'s' if count > 1 else ''}:")


def _without_infinity(content: Any) -> Any:
    """JSON has no word for the error of a layer that cannot be compared: null."""
    if isinstance(content, dict):
        return {key: _without_infinity(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_without_infinity(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _write(arguments: argparse.Namespace, fidelity: Fidelity) -> None:
    from ..calibration import markdown
    from ..calibration.files import write_atomically
    from ..converters.fidelity_page import fidelity_sections

    title = f"{Path(arguments.target).name} against {Path(arguments.source).name}"
    write_atomically(Path(arguments.markdown), markdown(title, fidelity_sections(fidelity)).encode())
