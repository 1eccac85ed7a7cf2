"""`nvfp4-studio card`: a page for a converted model, with everything that is known of it, to put beside it on a hub."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .interrupt import Interrupt, Interrupted
from .progress import Bar

if TYPE_CHECKING:
    from ..calibration import Calibration
    from ..converters import Source
    from ..converters.plots import Picture

PAGE, DATA = "README.md", "card.json"
PICTURES = ("contact-sheet.png", "times.png", "psnr.png", "weights.png", "calibration.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the converted checkpoint; its report beside it is read too")
    parser.add_argument("--source", metavar="SRC", help="what it was converted from: its checksum is computed")
    parser.add_argument("--calibration", metavar="FILE", help="the calibration that it was converted with")
    parser.add_argument(
        "--bench", metavar="JSON", help="bench.json of nvfp4-studio bench, in the folder of its pictures"
    )
    parser.add_argument(
        "--verify",
        metavar="JSON",
        help="what nvfp4-studio verify --json printed, instead of the report; with --activations also errors of outputs",
    )
    parser.add_argument(
        "--license", metavar="TEXT", help="licence of the source: an identifier such as apache-2.0, or words"
    )
    parser.add_argument("--out", metavar="DIR", help=f"where {PAGE}, {DATA} and pictures go, default FILE.card")


def run(arguments: argparse.Namespace) -> int:
    path = Path(arguments.file)
    out = Path(arguments.out) if arguments.out else path.with_name(path.name.removesuffix(".safetensors") + ".card")
    _check_folder(out)
    with Interrupt() as interrupt, Bar() as bar:
        card, pictures = _made(arguments, path, interrupt, bar)
    for name in _written(card, pictures, out):
        print(f"Wrote {name}")
    for sentence in card["limits"]:
        print(f"- {sentence}", file=sys.stderr)
    return 0


def _made(
    arguments: argparse.Namespace, path: Path, interrupt: Interrupt, bar: Bar
) -> tuple[dict[str, Any], dict[str, Picture]]:
    """The card and its pictures by file name."""
    from ..calibration import load
    from ..converters import open_source
    from .benching.output import plots_of, read_result
    from .carding.benchmark import of_this_file
    from .carding.calibrating import describe_calibration
    from .carding.card import make_card
    from .carding.file import describe_file
    from .carding.predicted import predict

    calibration = load(Path(arguments.calibration)) if arguments.calibration else None
    with open_source(path) as converted:
        file = describe_file(converted)
        seen = (
            describe_calibration(calibration, Path(arguments.calibration).name, file["made"]) if calibration else None
        )
        predicted = predict(converted, calibration) if calibration else None
        sha256 = _sha256_of_one(converted, interrupt, bar)
    bench = None
    if arguments.bench:
        bench = of_this_file(read_result(Path(arguments.bench)), file["name"], file["made"])
    source = _source(arguments.source, file["made"], interrupt, bar)
    weights = _weights(arguments, path, file, interrupt, bar)
    card = make_card(file, sha256, source, weights, seen, bench, predicted, arguments.license)
    pictures = {} if bench is None else plots_of(bench, Path(arguments.bench).parent)
    return card, {**pictures, **_plots(weights, calibration)}


def _sha256_of_one(converted: Source, interrupt: Interrupt, bar: Bar) -> str:
    from .carding.errors import CardError

    if len(converted.files) != 1:
        raise CardError(f"{converted.path} is a model in {len(converted.files)} files: give one converted file.")
    return next(iter(_sha256(converted, interrupt, bar).values()))


def _check_folder(out: Path) -> None:
    """Raises CardError when a page or pictures there are somebody else's."""
    from .carding.errors import CardError

    theirs = next((name for name in (PAGE, *PICTURES) if (out / name).exists()), None)
    if theirs is not None and not (out / DATA).exists():
        raise CardError(f"{out / theirs} was not written by nvfp4-studio card: choose another --out, or move it away.")


def _source(given: str | None, made: dict[str, Any] | None, interrupt: Interrupt, bar: Bar) -> dict[str, Any]:
    """Name, size and checksums of what was converted: computed where it is given, else as the header says."""
    from ..converters import open_source
    from .carding.errors import CardError
    from .text import size

    said = made["source_sha256"] if made and isinstance(made["source_sha256"], dict) else None
    if given is None:
        name = made["source"] if made else None
        return {"name": name, "bytes": None, "size": None, "sha256": said, "checked": False}
    with open_source(given) as source:
        found = _sha256(source, interrupt, bar)
        if said is not None and sorted(said.values()) != sorted(found.values()):
            raise CardError(f"{given} is not what the file was made from: its checksum is another than the header's.")
        return {
            "name": made["source"] if made else source.path.name,
            "bytes": source.size,
            "size": size(source.size),
            "sha256": found,
            "checked": True,
        }


def _sha256(source: Source, interrupt: Interrupt, bar: Bar) -> dict[str, str]:
    """Of each file of a checkpoint, by name."""
    from .carding.reading import sha256_of

    found = {}
    for part in source.files:
        digest = sha256_of(part, bar, interrupt)
        if digest is None:
            raise Interrupted("Cancelled; nothing was written.", interrupt.status)
        found[part.name] = digest
    return found


def _weights(
    arguments: argparse.Namespace, path: Path, file: dict[str, Any], interrupt: Interrupt, bar: Bar
) -> dict[str, Any] | None:
    """Errors from --verify, else from the report beside the file, else measured against --source, else None."""
    from ..converters import Cancelled, report_stem, verify
    from .carding.weights import from_measuring, from_report, from_verification

    if arguments.verify:
        return from_verification(Path(arguments.verify), path.name, file["bytes"])
    stem = report_stem(path)
    report = stem.with_name(f"{stem.name}.json")
    if report.is_file():
        return from_report(report, path.name, file["bytes"])
    if arguments.source is None:
        return None
    try:
        return from_measuring(verify(arguments.source, path, progress=bar, cancelled=interrupt))
    except Cancelled as error:
        raise Interrupted("Cancelled; nothing was written.", interrupt.status) from error


def _plots(weights: dict[str, Any] | None, calibration: Calibration | None) -> dict[str, Picture]:
    from ..converters.plots import bar_chart, calibration_plot
    from .carding.weights import layer_plot_rows

    drawn = {}
    rows = layer_plot_rows(weights) if weights else []
    if rows:
        drawn["weights.png"] = bar_chart("Weight SQNR by layer (higher is closer)", rows, "dB")
    if calibration is not None:
        drawn["calibration.png"] = calibration_plot(calibration)
    return drawn


def _written(card: dict[str, Any], pictures: dict[str, Picture], out: Path) -> list[Path]:
    from ..calibration.files import write_atomically
    from .benching.output import write_picture
    from .carding.page import card_page

    out.mkdir(parents=True, exist_ok=True)
    # The page's own mark of being ours comes first, so that a stop in between can be repeated.
    write_atomically(out / DATA, (json.dumps(card, indent=1, allow_nan=False) + "\n").encode())
    for name, picture in pictures.items():
        write_picture(out / name, picture)
    write_atomically(out / PAGE, card_page(card, list(pictures)).encode())
    return [out / PAGE, out / DATA, *(out / name for name in pictures)]
