"""`nvfp4-studio calibration`: show, compare, merge, import and export calibrations."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from .options import read_calibration
from .text import words

if TYPE_CHECKING:
    from ..calibration import Calibration, Section
    from ..converters.plots import Picture

FORMS = ("flat", "detailed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def add(name: str, help: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", allow_abbrev=False)
        action.set_defaults(run_action=run)
        return action

    show = add("show", "what a calibration holds, what each policy would do with it, and what to add", _show)
    show.add_argument("file", metavar="FILE", help="a calibration, or comfy-dit-quantizer's JSON")

    compare = add("compare", "how much larger or smaller the inputs are in a second calibration", _compare)
    compare.add_argument("first", metavar="A", help="a calibration, for example of the original model")
    compare.add_argument("second", metavar="B", help="another, for example of the model with a LoRA merged into it")

    for action in (show, compare):
        action.add_argument("--json", action="store_true", help="print everything, with every layer, as JSON")
        action.add_argument("--markdown", metavar="MD", help="write the report as a page of Markdown")
        action.add_argument("--plot", metavar="PNG", help="draw the report as one tall picture")

    merge = add(
        "merge",
        "add calibrations of one model together, and the influence beside them; the order does not matter",
        _merge,
    )
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
    from ..calibration import calibration_report, report_sections

    calibration = read_calibration(arguments.file)
    report = calibration_report(calibration, Path(arguments.file).stem)

    def draw() -> Picture:
        from ..converters.plots import calibration_plot

        return calibration_plot(calibration, report)

    _tell(arguments, f"Calibration {report.name}", report_sections(report), report.to_json, draw)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from ..calibration import compare, comparison_sections

    names = [Path(path).stem for path in (arguments.first, arguments.second)]
    if names[0] == names[1]:
        names = [arguments.first, arguments.second]
    comparison = compare(read_calibration(arguments.first), read_calibration(arguments.second), *names)

    def draw() -> Picture:
        from ..converters.plots import comparison_plot

        return comparison_plot(comparison)

    title = f"Calibration {comparison.second} against {comparison.first}"
    _tell(arguments, title, comparison_sections(comparison), comparison.to_json, draw)
    return 0


def _tell(
    arguments: argparse.Namespace,
    title: str,
    sections: Sequence[Section],
    content: Callable[[], dict[str, Any]],
    draw: Callable[[], Picture],
) -> None:
    """Write the files that were asked for, then print the report: as JSON, or in words."""
    from ..calibration import markdown
    from ..calibration.files import write_atomically

    page, plot = (_named(path, end) for path, end in ((arguments.markdown, ".md"), (arguments.plot, ".png")))
    if plot:
        data = io.BytesIO()
        draw().save(data, format="PNG")
        write_atomically(plot, data.getvalue())
    if page:
        text = markdown(title, sections)
        if plot and plot.parent == page.parent:
            text += f"\n![{title}]({quote(plot.name)})\n"
        write_atomically(page, text.encode())
    if arguments.json:
        print(json.dumps(content(), indent=1, allow_nan=False))
        return
    print(words(sections))


def _named(path: str | None, suffix: str) -> Path | None:
    """The file to write, None without one; another suffix is refused, lest a calibration be overwritten."""
    from ..calibration import CalibrationError

    if path is not None and not path.lower().endswith(suffix):
        raise CalibrationError(f"The file {path} must end in {suffix}.")
    return Path(path) if path is not None else None


def _merge(arguments: argparse.Namespace) -> int:
    from ..calibration import merge_files
    from ..converters.sensitivity import beside, influence_summary, keep_beside, merged_influence

    target = Path(arguments.out)
    total, probes = merge_files(arguments.files), merged_influence(map(Path, arguments.files))
    _free(str(beside(target)), arguments.overwrite)
    status = _write(total, arguments)
    keep_beside(probes, target)
    if probes:
        print(f"Wrote {beside(target)}: {influence_summary(probes, len(total.layers))}")
    return status


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
