"""The result as Markdown: one row for each way of rounding."""

from __future__ import annotations

from typing import Any

BEGIN, END = (
    "<!-- output-error: made by benchmarks/output_error.py --write-readme -->",
    "<!-- /output-error -->",
)
OURS = "nvfp4-studio"
LAYOUTS = {"flux": "Flux layout", "sd3": "SD3 layout"}


def table(result: dict[str, Any]) -> str:
    """Introduction and table; what could not be measured has its reason in the row."""
    models = result["models"]
    counts = " and ".join(f"{found['layers']} ({LAYOUTS[name]})" for name, found in models.items())
    versions = result["versions"]
    introduction = (
        f"`python benchmarks/output_error.py`, {result['date']}: output SQNR of the layers that the default recipes make "
        f"NVFP4 in the two demo models, {counts}, on {result['fresh_rows']} input rows a layer from samplings that nobody "
        "calibrated on; mean over layers in dB. *W4A4*: inputs rounded by ComfyUI's kernels too; *W4A16*: weights alone. "
        f"CPU seconds for all layers, one thread: ours and Model Optimizer's without reading and writing files. torch "
        f"{versions['torch']}, comfy-kitchen {versions['comfy-kitchen']}."
    )
    headings = ["tool", "version", "method", "looks at"]
    headings += [f"{mode}, {LAYOUTS[name]}" for name in models for mode in ("W4A4", "W4A16")] + ["CPU s"]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    first = next(iter(models.values()))
    for number, entry in enumerate(first["ways"]):
        version = versions[OURS][:7] if entry["name"] == OURS else entry["version"]
        cells = [entry["name"], version, entry["variant"], entry["looks_at"]]
        lines.append(f"| {' | '.join([*cells, *_figures(models, number)])} |")
    return f"{introduction}\n\n" + "\n".join(lines)


def _figures(models: dict[str, Any], number: int) -> list[str]:
    cells, seconds = [], 0.0
    for found in models.values():
        entry = found["ways"][number]
        if "skipped" in entry:
            cells += [f"not measured: {entry['skipped']}", "–"]
            continue
        cells += [f"{entry['w4a4_db']:.2f}", f"{entry['w4a16_db']:.2f}"]
        seconds += entry["cpu_seconds"]
    return [*cells, f"{seconds:.1f}" if seconds else "–"]
