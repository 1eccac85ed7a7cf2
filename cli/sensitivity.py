"""`nvfp4-studio sensitivity`: how much each layer's output suffers in each format, on rows kept while calibrating."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from .interrupt import Interrupt, Interrupted
from .options import add_timesteps, influence_of, read_calibration, stem_of
from .progress import Bar
from .text import words

if TYPE_CHECKING:
    from ..converters.sensitivity import Sensitivity


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="the checkpoint: a file, an index of shards or a folder")
    parser.add_argument("--calibration", metavar="C", required=True, help="calibration with detail curvature")
    parser.add_argument(
        "--out", metavar="STEM", help="write STEM.json, STEM.md and STEM.png; default SRC-sensitivity beside the source"
    )
    parser.add_argument(
        "--formats",
        metavar="F",
        default="keep,nvfp4,mxfp8,float8_e4m3fn,int8_tensorwise",
        help="policies of recipes, by commas, or all; default %(default)s",
    )
    parser.add_argument(
        "--roundings",
        metavar="M",
        default="auto,nearest",
        help="methods for NVFP4, by commas, or all; default %(default)s: what would be taken, and what kernels do",
    )
    parser.add_argument(
        "--pre-quant",
        metavar="E",
        help="exponents of a pre_quant_scale, by commas, that each rounding is measured with as well, such as 0.25,0.5",
    )
    parser.add_argument("--gain", action="store_true", help="measure each of these with a constant gain as well")
    parser.add_argument("--input-scale", metavar="P", default="p99.9", help="as for convert, default %(default)s")
    add_timesteps(parser, "uniform", "uniform")
    parser.add_argument(
        "--influence",
        metavar="JSON",
        help="measured influence of each layer on the model's output, which multiplies; default: what ComfyUI measured "
        "while it calibrated, beside the calibration",
    )
    parser.add_argument(
        "--kernels", metavar="K", default="rtx-5090", help="table of kernel speeds or a .json file, default %(default)s"
    )
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="where to compute")
    parser.add_argument("--json", action="store_true", help="print everything, with every layer, as JSON")


def run(arguments: argparse.Namespace) -> int:
    from ..converters import Cancelled, Options, open_source
    from ..converters.convert import chosen_device
    from ..converters.kernels import load_table
    from ..converters.sensitivity import choices_of, measure_and_save
    from ..converters.sensitivity.page import sensitivity_sections

    exponents = _exponents(arguments.pre_quant)
    choices = choices_of(arguments.formats.split(","), arguments.roundings.split(","), exponents, arguments.gain)
    kernels = load_table(arguments.kernels)
    influence = influence_of(arguments.calibration, arguments.influence)
    device = chosen_device(arguments.device)
    calibration = read_calibration(arguments.calibration)
    stem = stem_of(arguments, "sensitivity")
    with open_source(arguments.source) as source, Interrupt() as interrupt, Bar() as bar:
        try:
            found = measure_and_save(
                source,
                calibration,
                stem.with_name(f"{stem.name}.json"),
                choices,
                options=Options(input_scale=arguments.input_scale),
                calibration_name=Path(arguments.calibration).stem,
                weighting=arguments.timesteps,
                influence=influence,
                kernels=kernels,
                device=device,
                progress=bar,
                cancelled=interrupt,
            )
        except Cancelled as error:
            raise Interrupted(str(error), interrupt.status) from error
    _write(found, stem)
    if arguments.json:
        print(json.dumps(found.to_json(), indent=1, allow_nan=False))
        return 0
    print(words(sensitivity_sections(found)))
    print(f"\nWrote {stem}.json, {stem}.md and {stem}.png.")
    return 0


def _exponents(words: str | None) -> list[float]:
    from ..converters import PlanError

    try:
        return [float(word) for word in words.split(",")] if words else []
    except ValueError as error:
        raise PlanError(f"--pre-quant takes numbers by commas, not {words!r}.") from error


def _write(found: Sensitivity, stem: Path) -> None:
    from ..calibration import markdown
    from ..calibration.files import write_atomically
    from ..converters.plots.sensitivity import sensitivity_plot
    from ..converters.sensitivity.page import sensitivity_sections

    data = io.BytesIO()
    sensitivity_plot(found).save(data, format="PNG")
    write_atomically(stem.with_name(f"{stem.name}.png"), data.getvalue())
    title = f"Sensitivity of {found.source}"
    text = markdown(title, sensitivity_sections(found)) + f"\n![{title}]({quote(stem.name)}.png)\n"
    write_atomically(stem.with_name(f"{stem.name}.md"), text.encode())
