"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..calibration import Calibration
    from ..converters import Options


class _Details(argparse.Action):
    """`--help` of a verb with choices: the core knows them, and is imported only now."""

    def __init__(self, option_strings: list[str], dest: str = argparse.SUPPRESS, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from ..calibration import POLICIES
        from ..converters import DEFAULT_ROUNDING, PRE_QUANT_CHOICES, ROUNDINGS, TEXT_ENCODER_CHOICES

        layouts = {
            "source": "keeps what the source has",
            "checkpoint": "keeps an all-in-one file with its prefixes",
            "diffusion-model": "strips the prefix and leaves text encoder and VAE out",
        }
        described = [
            *_described("input scale policies (P)", POLICIES),
            *_described(f"rounding methods (M), default {DEFAULT_ROUNDING}", ROUNDINGS),
            *_described("pre_quant_scale (Q)", PRE_QUANT_CHOICES),
            *_described("layouts (L)", layouts),
            *_described(
                "text encoders (T); ComfyUI computes them in full precision: memory, not time", TEXT_ENCODER_CHOICES
            ),
        ]
        parser.epilog = "\n".join(described)
        parser.print_help()
        parser.exit()


def _described(title: str, choices: Mapping[str, str]) -> list[str]:
    width = max(60, min(110, shutil.get_terminal_size().columns - 2))
    wrapped = (
        textwrap.fill(
            sentence, width, initial_indent=f"  {name:<16} ", subsequent_indent=" " * 19, break_on_hyphens=False
        )
        for name, sentence in choices.items()
    )
    return [f"{title}:", *wrapped, ""]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Recipe, calibration, input scale, rounding, layout and text encoders, and a --help that explains the choices."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("-h", "--help", action=_Details, help="show this help and explain the choices")
    parser.add_argument(
        "--recipe", metavar="R", help="built-in recipe or a .json file; default: the model family's own"
    )
    parser.add_argument(
        "--calibration",
        metavar="C",
        help="calibration of the same model (.safetensors, or .json of comfy-dit-quantizer); without one NVFP4 "
        "activations are scaled dynamically and FP8 layers computed in full precision",
    )
    parser.add_argument(
        "--input-scale",
        metavar="P",
        default="p99.9",
        help="how the activation range follows from the calibration, default p99.9: twice the 99.9th percentile of the "
        "largest magnitude of each call, because the tensor scale sets range, not resolution",
    )
    parser.add_argument("--rounding", metavar="M", help="how weights are rounded")
    parser.add_argument(
        "--pre-quant",
        metavar="Q",
        default="off",
        help="search or off: whether each NVFP4 layer gets the pre_quant_scale that brings its outputs closest, default off",
    )
    parser.add_argument(
        "--gain",
        action="store_true",
        help="measure a constant gain for each NVFP4 layer, which gives outputs their length back; needs detail curvature",
    )
    parser.add_argument("--layout", metavar="L", default="source", help="source, checkpoint or diffusion-model")
    parser.add_argument(
        "--text-encoder",
        metavar="T",
        default="keep",
        help="keep, fp8 or nvfp4: what becomes of text encoders inside an all-in-one file, default keep",
    )


def add_timesteps(parser: argparse._ActionsContainer, default: str | None, told: str) -> None:
    """`--timesteps` of the verbs that measure; ``told``: what holds without it."""
    parser.add_argument(
        "--timesteps",
        metavar="W",
        default=default,
        help="how rows that were seen at different noise count: uniform (each row the same), schedule (each sixteenth of the "
        "noise range as often as the model was evaluated there), path (each that was visited the same) or early (as path, times "
        f"the noise); default {told}",
    )


def options_of(arguments: argparse.Namespace) -> Options:
    """The core's options from the arguments."""
    from ..converters import DEFAULT_ROUNDING, Options

    return Options(
        recipe=arguments.recipe,
        rounding=arguments.rounding or DEFAULT_ROUNDING,
        input_scale=arguments.input_scale,
        layout=arguments.layout,
        text_encoder=arguments.text_encoder,
        pre_quant=arguments.pre_quant,
        gain=arguments.gain,
    )


def calibration_of(arguments: argparse.Namespace) -> Calibration | None:
    """The calibration named by the arguments, or None."""
    return read_calibration(arguments.calibration) if arguments.calibration else None


def influence_of(calibration: str, named: str | None = None) -> dict[str, float] | None:
    """The measured influence of layers: a named file, else the one beside the calibration, None when there is none."""
    from ..converters.sensitivity import beside, load_influence

    path = Path(named) if named else beside(Path(calibration))
    return load_influence(path) if named or path.is_file() else None


def read_calibration(path: str) -> Calibration:
    """A calibration file, or comfy-dit-quantizer's JSON when the name ends in .json."""
    from ..calibration import import_json, load

    return import_json(path) if path.lower().endswith(".json") else load(path)


def stem_of(arguments: argparse.Namespace, verb: str) -> Path:
    """Where a verb's results go: --out without its suffix, else SRC-<verb> beside the source."""
    from ..converters import ConversionError

    named = Path(arguments.out) if arguments.out else Path(arguments.source).resolve()
    stem = named.with_suffix("") if named.suffix in (".json", ".md", ".png", ".safetensors") else named
    if not stem.parent.is_dir():
        raise ConversionError(f"The folder {stem.parent} does not exist; create it or choose another --out.")
    return stem if arguments.out else stem.with_name(f"{stem.name}-{verb}")
