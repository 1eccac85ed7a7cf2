"""What a comparison found, as JSON, as Markdown and in a few lines. Plain values in, plain values out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ...converters.pictures import Scores, Summary

SCHEMA = 1
LISTED = 24
"""Rows of a table in the text; the JSON holds all."""


@dataclass(frozen=True)
class Latents:
    """Of two samplings: the final latents' relative RMS error, and that of the denoised prediction at each step."""

    final: list[float]
    steps: list[dict[str, Any]]
    kept: dict[str, Any] | None
    seconds: tuple[float, float]
    seconds_per_step: tuple[float | None, float | None]


@dataclass(frozen=True)
class Outcome:
    """``names`` are the first (reference) and the second; ``scores`` is empty where there are no pictures."""

    names: tuple[str, str]
    scores: Sequence[Scores] = ()
    summary: Summary | None = None
    gain: int | None = None
    latents: Latents | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    hardware: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """Everything, with null for what is infinite or not a number (JSON has neither)."""
        found = {
            "schema": SCHEMA,
            "names": list(self.names),
            "settings": dict(self.settings),
            "summary": asdict(self.summary) if self.summary else None,
            "pictures": [{**asdict(pair), "equal": pair.equal} for pair in self.scores],
            "difference_gain": self.gain,
            "latents": asdict(self.latents) if self.latents else None,
            "hardware": self.hardware,
            "notes": list(self.notes),
        }
        return _finite(found)

    def lines(self) -> list[str]:
        """What the node shows on itself."""
        return [f"{self.names[1]} against {self.names[0]}", *self._figures(), *self.notes]

    def markdown(self) -> str:
        """Headline, figures, notes, and a table of pictures and one of steps."""
        parts = [f"# {self.names[1]} against {self.names[0]}", "\n".join(f"- {line}" for line in self._figures())]
        parts += [f"> {note}" for note in self.notes]
        if len(self.scores) > 1:
            parts.append(_table(("picture", "PSNR, dB", "SSIM", "HaarPSI"), self._picture_rows()))
        if self.latents and self.latents.steps:
            headings = ("step", "noise level", "latent error", "SQNR, dB")
            parts.append(_table(headings, [_step_row(step) for step in self.latents.steps]))
        if self.settings:
            parts.append(", ".join(f"{name} {value}" for name, value in self.settings.items()))
        return "\n\n".join(parts) + "\n"

    def _figures(self) -> list[str]:
        lines = []
        if self.summary:
            lines.append(_pictures_text(self.summary))
        if self.latents:
            lines.append(f"Final latent: {_error_text(statistics.fmean(self.latents.final))}.")
            lines += [text for text in (_parting_text(self.latents.steps), _time_text(self.latents)) if text]
        return lines

    def _picture_rows(self) -> list[tuple[str, ...]]:
        numbers = sorted(range(len(self.scores)), key=lambda number: self.scores[number].psnr)[:LISTED]
        rows = []
        for number in sorted(numbers):
            pair = self.scores[number]
            decibels = "equal" if pair.equal else f"{pair.psnr:.2f}"
            rows.append((str(number + 1), decibels, f"{pair.ssim:.4f}", f"{pair.haarpsi:.4f}"))
        if len(self.scores) > LISTED:
            rows.append((f"the {LISTED} of {len(self.scores)} with the lowest PSNR", "", "", ""))
        return rows


def _pictures_text(summary: Summary) -> str:
    if summary.equal == summary.pairs:
        return (
            "The picture is equal in every pixel." if summary.pairs == 1 else f"All {summary.pairs} pictures are equal."
        )
    text = f"PSNR {summary.psnr:.2f} dB, SSIM {summary.ssim:.4f}, HaarPSI {summary.haarpsi:.4f}"
    if summary.pairs > 1:
        text += f", means of {summary.pairs} pictures, the farthest is number {summary.worst + 1}"
    if summary.equal:
        text += f"; {summary.equal} equal ones are left out of the mean PSNR"
    return text + "."


def _error_text(error: float) -> str:
    if error == 0:
        return "equal"
    return f"{error:.2%} relative RMS error, {sqnr(error):.1f} dB"


def sqnr(error: float) -> float:
    """A relative RMS error in dB: ``-20 log10(error)``, infinite for 0."""
    return math.inf if error == 0 else -20 * math.log10(error)


def _parting_text(steps: Sequence[Mapping[str, Any]]) -> str:
    """The error at the first step, where the input is the same; at its largest; at the last."""
    means = [(statistics.fmean(step["relative_rms"]), step["step"] + 1) for step in steps]
    if len(means) < 2 or max(means)[0] == 0:
        return ""
    most, where = max(means)
    farthest = f", at most {most:.2%} at step {where}" if most not in (means[0][0], means[-1][0]) else ""
    return (
        f"Denoised prediction: {means[0][0]:.2%} apart at step {means[0][1]}, where the input is the same{farthest}, "
        f"{means[-1][0]:.2%} at the last."
    )


def _time_text(latents: Latents) -> str:
    first, second = latents.seconds_per_step
    if first is None or second is None:
        return ""
    return f"Seconds a step (median of one run): {first:.3g} and {second:.3g}. For speed use nvfp4-studio bench."


def _step_row(step: Mapping[str, Any]) -> tuple[str, ...]:
    error = statistics.fmean(step["relative_rms"])
    level = "" if step["sigma"] is None else f"{step['sigma']:.4g}"
    return str(step["step"] + 1), level, f"{error:.3%}", "equal" if error == 0 else f"{sqnr(error):.1f}"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return value
