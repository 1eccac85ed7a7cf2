"""The report of a conversion as data, from which JSON, Markdown and pictures are made."""

from __future__ import annotations

import io
import json
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .. import __version__
from ..calibration.files import write_atomically
from . import plots
from .formats import FORMATS
from .groups import error_groups
from .measure import LayerError
from .plan import LayerDecision, Plan
from .verify import Verification


@dataclass(frozen=True)
class Report:
    """A plan and what came out of it. ``output`` is the file's name, ``seconds`` the wall time.

    ``stamp``: what a host puts there to know later which files it was made from.
    """

    plan: Plan
    verification: Verification
    output: str
    seconds: float
    stamp: str | None = None

    @property
    def summary(self) -> dict[str, Any]:
        """The figures that a node or a last line shows."""
        counts = self.plan.count()
        worst = self.verification.worst()
        return {
            "source_bytes": self.plan.source_bytes,
            "output_bytes": self.plan.output_bytes,
            "ratio": self.plan.output_bytes / max(1, self.plan.source_bytes),
            "nvfp4_layers": counts.get("nvfp4", 0),
            "fp8_layers": sum(count for name, count in counts.items() if name.startswith("float8")),
            "formats": {name: count for name, count in counts.items() if name in FORMATS},
            "main_format": self.verification.main_format(),
            "mean_sqnr_db": self.verification.mean_sqnr_db(),
            "worst_layer": worst.name if worst else None,
            "worst_sqnr_db": worst.sqnr_db if worst else None,
            "repairs": len(self.plan.repairs),
            "warnings": len(self.plan.warnings),
            "seconds": round(self.seconds, 3),
        }

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs. Each layer carries its decision and its measured error."""
        errors = {layer.name: layer for layer in self.verification.layers}
        plan = self.plan.to_json()
        plan["layers"] = [{**layer.to_json(), "error": _error(errors.get(layer.name))} for layer in self.plan.layers]
        return {
            "nvfp4_studio": __version__,
            "output": self.output,
            "stamp": self.stamp,
            "summary": self.summary,
            "groups": self.groups(),
            "plan": plan,
            "problems": list(self.verification.problems),
            "verified_tensors": self.verification.tensors,
        }

    def groups(self) -> list[dict[str, Any]]:
        """Errors by type of layer."""
        return error_groups(self.verification.layers, (layer.name for layer in self.plan.layers))

    def to_markdown(self) -> str:
        """The report as a page for people."""
        errors = {layer.name: layer for layer in self.verification.layers}
        facts = self.summary
        plan = self.plan
        lines = [
            f"# {self.output}",
            "",
            f"Converted from {plan.source} by nvfp4-studio {__version__} and verified: "
            + (
                "no problem found."
                if not self.verification.problems
                else f"{len(self.verification.problems)} problems."
            ),
            "",
            "| | |",
            "|---|---|",
            f"| model | {plan.family_title} |",
            f"| recipe · rounding · input_scale | `{plan.recipe}` · `{plan.options.rounding}` · `{plan.options.input_scale}` |",
            f"| calibration | {plan.calibration or 'none: activations are scaled dynamically'} |",
            f"| size | {plan.source_bytes / 1e6:.2f} MB → {plan.output_bytes / 1e6:.2f} MB ({facts['ratio']:.3f}×) |",
            f"| layers | {', '.join(f'{count} {name}' for name, count in plan.count().items())} |",
            f"| weight error | {facts['main_format'] or 'no'} layers: mean SQNR {_db(facts['mean_sqnr_db'])}; "
            f"worst of all changed layers {_db(facts['worst_sqnr_db'])} in {facts['worst_layer']} |",
            "",
            *_section("Text encoders", plan.encoder_lines()),
            *_section("Measured", plan.measured_lines()),
            *_section("Repaired", plan.repairs),
            *_section("Warnings", plan.warnings),
            "## By kind of layer",
            "",
            "| kind | format | layers | mean SQNR | worst SQNR | mean rel. RMSE |",
            "|---|---|---|---|---|---|",
            *(
                f"| {row['group']} | {row['format']} | {row['layers']} | {_db(row['mean_sqnr_db'])} "
                f"| {_db(row['worst_sqnr_db'])} | {row['mean_rel_rmse']:.2%} |"
                for row in self.groups()
            ),
            "",
            "## Every layer",
            "",
            "| layer | from | to | SQNR | rel. RMSE | cosine | input_scale | clip rate | reason |",
            "|---|---|---|---|---|---|---|---|---|",
            *(_row(layer, errors.get(layer.name)) for layer in plan.layers),
        ]
        return "\n".join(lines) + "\n"

    def write(self, stem: str | os.PathLike[str]) -> list[Path]:
        """Write ``stem.json``, ``stem.md`` and the plots ``stem-*.png``; return their paths."""
        stem = Path(stem)
        written = [stem.with_name(stem.name + ".json"), stem.with_name(stem.name + ".md")]
        write_atomically(written[0], (json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n").encode())
        pictures = self.pictures()
        links = "".join(f"![{name}]({quote(stem.name)}-{name}.png)\n\n" for name in pictures)
        write_atomically(written[1], self.to_markdown().replace("## By kind", links + "## By kind", 1).encode())
        for name, picture in pictures.items():
            written.append(stem.with_name(f"{stem.name}-{name}.png"))
            data = io.BytesIO()
            picture.save(data, format="PNG")
            write_atomically(written[-1], data.getvalue())
        return written

    def pictures(self) -> dict[str, plots.Picture]:
        """The plots by name: size by format, map of blocks, weight error and largest activation by layer."""
        inside = [layer for layer in self.plan.layers if layer.component == "diffusion_model"]
        measured = {layer.name: layer.sqnr_db for layer in self.verification.layers}
        errors = [(layer.name, layer.sqnr_db, layer.format) for layer in self.verification.layers if layer.sqnr_db]
        pictures = {
            "size": plots.paired_bars(
                "Size by format",
                _sizes(self.plan.layers, self.plan),
                "MB",
            ),
            "map": plots.block_map([(layer.module, layer.format, measured.get(layer.name)) for layer in inside]),
        }
        if errors:
            pictures["error"] = plots.bar_chart("Weight SQNR by layer (higher is closer)", errors, "dB")
        ranges = [(layer.name, layer.input_amax, layer.format) for layer in self.plan.layers if layer.input_amax]
        if ranges:
            pictures["activations"] = plots.bar_chart(
                "Largest activation that fits (input_scale)", ranges, "", logarithmic=True
            )
        return pictures


def report_stem(output: str | os.PathLike[str]) -> Path:
    """Where a report goes when nobody says: next to the output, ``name.report.json`` and so on."""
    output = Path(output)
    return output.with_name(output.name.removesuffix(".safetensors") + ".report")


def _sizes(layers: tuple[LayerDecision, ...], plan: Plan) -> list[tuple[str, float, float]]:
    before: dict[str, float] = defaultdict(float)
    after: dict[str, float] = defaultdict(float)
    for layer in layers:
        before[layer.source_format] += layer.bytes_before / 1e6
        after[layer.format] += layer.bytes_after / 1e6
    rest = sum(copy.spec.nbytes for copy in plan.copies) / 1e6
    rows = [(name, before[name], after[name]) for name in sorted(before.keys() | after.keys())]
    return [*rows, ("other tensors", rest, rest)]


def _section(title: str, lines: tuple[str, ...]) -> list[str]:
    return [f"## {title}", "", *(f"- {line}" for line in lines), ""] if lines else []


def _db(value: float | None) -> str:
    return "identical" if value is None else f"{value:.2f} dB"


def _error(error: LayerError | None) -> dict[str, Any] | None:
    if error is None:
        return None
    return {
        "identical": error.identical,
        "sqnr_db": error.sqnr_db,
        "rel_rmse": error.rel_rmse,
        "cosine": error.cosine,
    }


def _row(layer: LayerDecision, error: LayerError | None) -> str:
    measured = "identical | 0 | 1" if error is None or error.identical else (
        f"{_db(error.sqnr_db)} | {error.rel_rmse:.2%} | {error.cosine:.5f}"
    )  # fmt: skip
    clip = "" if layer.clip_rate is None else f"{layer.clip_rate:.2g}"
    return f"| {layer.name} | {layer.source_format} | {layer.format} | {measured} | {layer.activations} | {clip} | {layer.reason} |"
