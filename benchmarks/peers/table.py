"""The comparison as a Markdown table and in a few sentences, and where both stand in the READMEs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from readme import write_between

BEGIN, END = "<!-- peers: made by benchmarks/against_peers.py --write-readme -->", "<!-- /peers -->"
BEGIN_SUMMARY = "<!-- peers in short: made by benchmarks/against_peers.py --write-readme -->"
END_SUMMARY = "<!-- /peers in short -->"
PAGE = "https://github.com/nvfp4-studio/nvfp4-studio/blob/main/benchmarks/README.md#beside-other-converters"
WRONG = "**wrong**"
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


def summary(result: dict[str, Any]) -> str:
    """What the first variant of each converter was like beside ours."""
    own, *others = [(each["name"], each["variants"][0]) for each in result["converters"] if _measured(each)]
    where = f"[benchmarks]({PAGE}), `python benchmarks/against_peers.py`"
    if not others:
        return f"None of the other converters could be run, {result['date']}; why: {where}."
    ours = own[1]
    times = ", ".join(f"{name} {variant['times_ours']:.1f}" for name, variant in others)
    memory = [variant["peak_mb"] / ours["peak_mb"] for _, variant in others]
    most = max(variant["weights"]["sqnr_db"] for _, variant in others)
    wrong = [name for name, variant in others if _scaled_fp8(variant.get("scaled_fp8")).startswith(WRONG)]
    return (
        f"{result['source']['weights'] / 1e6:.0f} million weights in BF16 to NVFP4, without a GPU, {result['date']}. Times as long "
        f"as ours, each with the choices of its first row in the table: {times}. They took {min(memory):.0f} to {max(memory):.0f} "
        f"times our {ours['peak_mb']:.0f} MB, and their weights have at most {most:.1f} dB SQNR where ours have "
        f"{ours['weights']['sqnr_db']:.1f}. From a scaled-FP8 source {_listed(wrong) or 'none'} wrote weights of the wrong scale. "
        f"The table, and what was not run and why: {where}."
    )


def _measured(converter: dict[str, Any]) -> bool:
    first = converter.get("variants", [{}])[0]
    return "times_ours" in first and "sqnr_db" in first["weights"]


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


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
        return f"{WRONG}: {reason}"
    if set(found["formats"]) != {"nvfp4"}:
        return "FP8 layers left as they are"
    if found["sqnr_db"] >= RIGHT_DB:
        return f"right, {found['sqnr_db']:.1f} dB"
    return f"{WRONG}: weights {1 / found['gain']:,.0f} times too large" if found["gain"] else WRONG


def write_into(readme: Path, result: dict[str, Any]) -> None:
    """Replace what stands between the markers of ``readme``: the table, the summary or both.

    Raises:
        SystemExit: it has neither pair of markers, or not once each and in order.
    """
    text = readme.read_text(encoding="utf-8")
    if BEGIN_SUMMARY in text:
        write_between(readme, BEGIN_SUMMARY, END_SUMMARY, summary(result))
    if BEGIN in text or BEGIN_SUMMARY not in text:
        write_between(readme, BEGIN, END, table(result))
