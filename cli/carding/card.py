"""The card's data: everything that the page says, and where it is from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import __version__
from ...converters.pictures.intervals import CONFIDENCE
from ..text import one_line
from .licences import IDENTIFIERS

FORMAT = "nvfp4-studio-card"
VERSION = 1
MAX_LICENSE = 300
FILE_KEYS = ("name", "bytes", "size", "tensors", "family", "family_title", "made")
RUNS_IN = "ComfyUI 0.33 or newer"
"""What the converter's own tests load its files with (tests/comfy)."""


def make_card(
    file: Mapping[str, Any],
    sha256: str,
    source: Mapping[str, Any],
    weights: Mapping[str, Any] | None,
    calibration: Mapping[str, Any] | None,
    bench: Mapping[str, Any] | None,
    predicted: Mapping[str, Any] | None,
    license_given: str | None,
) -> dict[str, Any]:
    """All parts as one JSON.

    source: {"name", "bytes", "size", "sha256", "checked"}, unknown parts None. bench: of this file and its reference.
    """
    card: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "nvfp4_studio": __version__,
        "file": {**{key: file[key] for key in FILE_KEYS}, "sha256": sha256},
        "source": dict(source),
        "license": _license(license_given, file["license"]),
        "layers": file["layers"],
        "weights": None if weights is None else {key: value for key, value in weights.items() if key != "layers"},
        "calibration": None if calibration is None else dict(calibration),
        "benchmark": None if bench is None else _benchmark(bench),
        "predicted": None if predicted is None else dict(predicted),
        "loading": {**file["loading"], "runs_in": RUNS_IN},
    }
    card["tags"] = ["comfyui", *dict.fromkeys(entry["format"] for entry in _quantized(card)), file["family"]]
    card["limits"] = _limits(card)
    return card


def _quantized(card: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    plain = ("bfloat16", "float16", "float32", "float64")
    return [entry for entry in card["layers"]["formats"] if entry["format"] not in plain]


def _license(given: str | None, in_header: str | None) -> dict[str, Any]:
    """{"text", "identifier", "from"}, the identifier one that hubs know: what the user said, else what the source's own header says, else that it is unknown."""
    text = one_line(given, MAX_LICENSE) if given else in_header
    if not text:
        return {"text": "unknown", "identifier": None, "from": "neither the user nor the source's header says it"}
    known = text.lower() if text.lower() in IDENTIFIERS else None
    return {
        "text": text,
        "identifier": known,
        "from": "given by the author of this page" if given else "the source's header",
    }


def _benchmark(bench: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "nvfp4_studio": bench["nvfp4_studio"],
        "server": bench["server"],
        "request": bench["request"],
        "models": bench["models"],
        "notes": bench["notes"],
        "confidence_percent": round(100 * CONFIDENCE),
    }


def _limits(card: Mapping[str, Any]) -> list[str]:
    """What a user has to know before relying on the file, a sentence each."""
    found = []
    made, weights, seen, bench = card["file"]["made"], card["weights"], card["calibration"], card["benchmark"]
    if card["layers"]["nvfp4"]:
        found.append(
            "NVFP4 is computed natively on GPUs with NVFP4 tensor cores (NVIDIA Blackwell). Elsewhere ComfyUI loads the "
            "file and multiplies in full precision: smaller, not faster."
        )
    if card["license"]["text"] == "unknown":
        found.append("The licence of the source is unknown; it holds for this file too, so find it out before use.")
    if made is None:
        found.append("The file does not say how it was made; recipe, rounding and source are unknown.")
    elif not made["calibration"]:
        found.append("No calibration was used: inputs are scaled by what each one holds, which costs a little time.")
    if weights is None:
        found.append("The weights were not compared with the source's for this page.")
    elif weights["problems"]:
        found.append(f"Verification found {len(weights['problems'])} problems: {'; '.join(weights['problems'][:3])}")
    found += (weights or {}).get("warnings", [])
    found += (seen or {}).get("advice", [])
    if bench is None:
        found.append("Pictures and speed were not measured for this page.")
    else:
        found += bench["notes"]
    return found
