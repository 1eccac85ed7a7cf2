"""The comparison as a Markdown table, and its place in the README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from readme import write_between

BEGIN, END = "<!-- peers: made by benchmarks/against_peers.py --write-readme -->", "<!-- /peers -->"
RIGHT_DB = 15.0
"""Above this SQNR the weights are those of the source; a wrong scale gives about 0 dB."""
HEADINGS = (
    "converter",
    "time",
    "CPU time",
    "peak memory, MB",
    "weights, dB",
    "output, dB",
    "loads in ComfyUI",
    "after a kill",
    "scaled-FP8 source",
)


def table(result: dict[str, Any]) -> str:
    """The table, with a line above on how it was made and notes below."""
    lines = [_introduction(result), "", f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
    notes = []
    for converter in result["converters"]:
        version = f" {converter['commit'][:7]}" if converter["commit"] else ""
        if converter["note"]:
            notes.append(f"{converter['name']}: {converter['note']}")
        if "skipped" in converter:
            notes.append(f"{converter['name']} is missing: {converter['skipped']}")
            continue
        for variant in converter["variants"]:
            name = f"{converter['name']}{version}, {variant['variant']}"
            if "failed" in variant:
                notes.append(f"{name} is missing: {variant['failed']}")
            else:
                lines.append(f"| {name} | {' | '.join(_cells(variant))} |")
    notes += [f"{name} is not run: {reason}" for name, reason in result["not_run"].items()]
    return "\n".join([*lines, "", *(f"- {note.replace('|', '/')}." for note in notes)])


def _introduction(result: dict[str, Any]) -> str:
    machine, source = result["machine"], result["source"]
    ours = result["converters"][0]
    best = ours["variants"][0]
    safetensors = sorted({entry["packages"]["safetensors"] for entry in result["converters"] if "packages" in entry})
    loaded = f"ComfyUI {result['comfyui']}" if result["comfyui"] else "no ComfyUI"
    return (
        f"`python benchmarks/against_peers.py`, {result['date']}: {source['weights'] / 1e6:.0f} million weights in BF16 "
        f"(one block of Qwen-Image), all to NVFP4, {machine['threads']} processor{'s' * (machine['threads'] > 1)}, no GPU, "
        f"torch {machine['torch']}, safetensors {' and '.join(safetensors)}, {loaded}. Time of the whole process as a multiple of ours "
        f"({best['median_seconds']:.1f} s), medians of {result['runs']} alternating runs. *Weights* and *output* are SQNR, "
        "of the decoded weights and of one step in ComfyUI with random weights, activations not quantized. *After a kill*: "
        "SIGKILL half-way and when the target's name appears."
    )


def _cells(variant: dict[str, Any]) -> list[str]:
    comfyui, weights = variant.get("comfyui"), variant["weights"]
    return [
        f"{variant['times_ours']:.1f}×" if "times_ours" in variant else "–",
        f"{variant['cpu_times_ours']:.1f}×" if "cpu_times_ours" in variant else "–",
        f"{variant['peak_mb']:.0f}" if "peak_mb" in variant else "–",
        f"{weights['sqnr_db']:.1f}" if "sqnr_db" in weights else "not decoded",
        f"{comfyui['sqnr_db']:.1f}" if comfyui and "sqnr_db" in comfyui else "–",
        _loads(comfyui, weights),
        _killed(variant.get("killed")),
        _scaled_fp8(variant.get("scaled_fp8")),
    ]


def _loads(comfyui: dict[str, Any] | None, weights: dict[str, Any]) -> str:
    if comfyui is None:
        return "not tried"
    if "failed" in comfyui:
        return f"no: {comfyui['failed']}"
    layers = sum(comfyui["formats"].values())
    return "yes" if layers == weights.get("layers") else f"{layers} of {weights.get('layers')} layers"


def _killed(killed: dict[str, str] | None) -> str:
    if killed is None:
        return "–"
    states = [state for state in ("broken", "absent", "complete") if state in killed.values()]
    return "**broken file**" if "broken" in states else " or ".join(states)


def _scaled_fp8(found: dict[str, Any] | None) -> str:
    if found is None:
        return "–"
    if "failed" in found:
        return f"fails: {found['failed']}"
    if "not_decoded" in found:
        output = found.get("comfyui", {}).get("sqnr_db")
        reason = found["not_decoded"] if output is None else f"output {output:.1f} dB in ComfyUI"
        return f"**wrong**: {reason}"
    if set(found["formats"]) != {"nvfp4"}:
        return "FP8 layers left as they are"
    if found["sqnr_db"] >= RIGHT_DB:
        return f"right, {found['sqnr_db']:.1f} dB"
    return f"**wrong**: weights {1 / found['gain']:,.0f} times too large" if found["gain"] else "**wrong**"


def write_into(readme: Path, result: dict[str, Any]) -> None:
    """Replace what stands between the two markers of ``readme``.

    Raises:
        SystemExit: the markers are not there, once each and in order.
    """
    write_between(readme, BEGIN, END, table(result))
