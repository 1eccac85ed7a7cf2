"""The sentences that the nodes show; plain functions of plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..calibration import Calibration, CalibrationReport, Comparison, Cost
from ..calibration.page import number
from ..converters.sensitivity import KEEP, Sensitivity, decibels

NAMED_LAYERS = 3
NAMED_WARNINGS = 2


def before_sampling(stored: Calibration | None, name: str, *, restart: bool) -> str:
    """What the calibrate node says when it has been run, before a sampler uses its model."""
    if restart or stored is None:
        return f"{name}: nothing collected yet. Sampling starts it; a cached sampler adds nothing (change the seed)."
    return f"{name}: {described(stored)}\nSampling adds to it; a cached sampler adds nothing (change the seed)."


def cost_text(detail: str, cost: Cost) -> str:
    """What the chosen level of detail takes, before the first sampling."""
    return f"Detail {detail}: at most {size(cost.file)} on disk, {size(cost.device)} of the device while sampling."


def during_sampling(calls: int, stored: Calibration | None) -> str:
    """A line while a sampling runs. Counts only: reading a statistic would make the host wait for the GPU."""
    known = f"; so far {stored.summary()}" if stored is not None else ""
    return f"Collecting: step {calls} of this sampling{known}"


def after_sampling(
    total: Calibration,
    name: str,
    *,
    completed: bool,
    compiled: bool = False,
    probed: int | None = None,
    hindered: bool = False,
) -> str:
    """The line that stays on the calibrate node."""
    note = "" if completed else "\nThe last sampling was interrupted; its steps are kept."
    if compiled:
        note += "\nSampled without torch.compile, because compiled code cannot be observed."
    if probed is not None:
        note += f"\nInfluence measured of {probed} of {len(total.layers)} layers."
        note += " Not while a cache or another node wraps the model: remove it meanwhile." if hindered else ""
    return f"{name}: {described(total)}{note}"


def described(calibration: Calibration) -> str:
    """Summary, then what is missing or wrong, each on its own line."""
    lines = [calibration.summary()]
    coverage = calibration.coverage()
    if coverage.observed < coverage.total:
        lines.append(f"{coverage.total - coverage.observed} of {coverage.total} Linear layers not observed.")
    bad = calibration.nonfinite_layers()
    if bad:
        named = ", ".join(f"{name} ({count})" for name, count in list(bad.items())[:NAMED_LAYERS])
        more = f" and {len(bad) - NAMED_LAYERS} more" if len(bad) > NAMED_LAYERS else ""
        lines.append(f"NaN or infinite inputs, left out: {named}{more}.")
    for what, samplings in calibration.adapted().items():
        lines.append(f"{what} in {samplings} of {calibration.samplings} samplings.")
    if calibration.samplings:
        lines.extend(coverage.lacking or [calibration.convergence().advice])
    return "\n".join(lines)


def coverage_text(calibration: Calibration, report: CalibrationReport, comparison: Comparison | None = None) -> str:
    """What the report node shows on itself; the whole report, which its text output holds, has too many lines."""
    coverage = calibration.coverage()
    seen, missing = f"{coverage.schedule_seen:.0%}", coverage.missing_ranges()
    lines = [
        described(calibration),
        f"Layers observed: {coverage.observed} of {coverage.total}.",
        f"Noise schedule seen: {seen}; not seen (0 = clean, 1 = noise): {missing}."
        if missing
        else f"Noise schedule seen: {seen}.",
    ]
    lines.extend(coverage.recommendations)
    for name, reason in list(calibration.unobserved.items())[:NAMED_LAYERS]:
        lines.append(f"Not observed: {name}: {reason}")
    outliers = report.outliers()
    if outliers:
        named = ", ".join(f"{layer.name} ({number(layer.ratio, 3)} times)" for layer in outliers[:NAMED_LAYERS])
        more = f" and {len(outliers) - NAMED_LAYERS} more" if len(outliers) > NAMED_LAYERS else ""
        lines.append(f"Far above the median amax of their type: {named}{more}.")
    lines.extend(comparison.verdict() if comparison else [])
    return "\n".join(lines)


def conversion_text(summary: Mapping[str, Any], name: str, warnings: Sequence[str] = ()) -> str:
    """The result of a conversion: file, size, ratio, mean and worst layer error, warnings."""
    lines = [
        f"{name}",
        f"{size(summary['source_bytes'])} → {size(summary['output_bytes'])} ({summary['ratio']:.0%} of the source)",
        ", ".join(
            [f"{summary['nvfp4_layers']} layers NVFP4", f"{summary['fp8_layers']} FP8", *_other_formats(summary)]
        ),
    ]
    if summary.get("mean_sqnr_db") is not None:
        lines.append(
            f"Weight error: mean {summary['mean_sqnr_db']:.1f} dB SQNR, "
            f"worst {summary['worst_sqnr_db']:.1f} dB in {plain(summary['worst_layer'])}"
        )
    lines.extend(f"Warning: {warning}" for warning in warnings[:NAMED_WARNINGS])
    if len(warnings) > NAMED_WARNINGS:
        lines.append(f"{len(warnings) - NAMED_WARNINGS} more warnings in the report beside the file.")
    return "\n".join(lines)


def sensitivity_text(found: Sensitivity, name: str) -> str:
    """The result of a measurement: how many layers and formats, and which layers suffer most in NVFP4."""
    measured = [layer for layer in found.layers if layer.rows and not layer.fixed]
    labels = {outcome.choice.label for layer in measured for outcome in layer.outcomes} - {KEEP}
    worst = sorted(
        ((layer.of_policy("nvfp4")[0], layer) for layer in measured if layer.of_policy("nvfp4")),
        key=lambda pair: -pair[1].error(pair[0]),
    )
    lines = [f"{name}: {len(measured)} of {len(found.layers)} layers measured in {len(labels)} formats and roundings."]
    if worst:
        told = (f"{layer.module} ({decibels(layer.error(outcome)):.1f} dB)" for outcome, layer in worst[:NAMED_LAYERS])
        lines.append(f"Farthest off in NVFP4: {', '.join(told)}.")
    lines.append("Budgets in the studio and on the command line can use it now.")
    return "\n".join(lines)


def plan_notes(device: Mapping[str, Any], *, nvfp4: bool) -> list[str]:
    """What this machine's GPU (``hardware.described``) makes of a planned file; nothing where it is not NVIDIA's."""
    emulated = (
        f"{device['name']} does not compute in NVFP4: ComfyUI decodes these layers on every call and multiplies in full "
        "precision, which saves memory there, not time."
    )
    found = [emulated] if nvfp4 and device["capability"] and not device["nvfp4"] else []
    return [*found, *filter(None, [kernels_text(device)])]


def kernels_text(device: Mapping[str, Any]) -> str:
    """What a GPU lacks without comfy-kitchen's CUDA kernels, and how to have them; empty where they are used.

    ComfyUI 0.33 switches them off below CUDA 13 (``comfy/quant_ops.py``).
    """
    if device["kernels"] is not False:
        return ""
    if int(device["cuda"].partition(".")[0]) < 13:
        cause = f"they need a PyTorch for CUDA 13 (cu130) or newer, and this one is for CUDA {device['cuda']}"
    else:
        cause = "ComfyUI's log tells why"
    return f"{device['name']} computes without comfy-kitchen's CUDA kernels, so quantized layers are slower than predicted: {cause}."


def _other_formats(summary: Mapping[str, Any]) -> list[str]:
    counts: Mapping[str, int] = summary.get("formats", {})
    return [f"{count} {name}" for name, count in counts.items() if name != "nvfp4" and not name.startswith("float8")]


def plain(layer: str) -> str:
    """A layer's name without the prefix that all layers of an all-in-one file share."""
    return layer.removeprefix("model.diffusion_model.")


def idle_text(name: str, *, exists: bool) -> str:
    """What the convert node says when nobody pressed its button."""
    if exists:
        return f"{name} is there already. Press the button with overwrite on to convert again."
    return f"Press the button to convert {name}. An ordinary Run does not convert."


def size(count: float) -> str:
    """Bytes in the unit that people say: 27.1 GB, 8.4 MB."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
