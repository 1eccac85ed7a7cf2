"""The main job on the demo model, start to end, without ComfyUI and without a GPU."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..calibration import Calibration, Collector, save
from ..converters import Options, Report, convert, report_stem, verify
from ..converters.pipeline import Progress, no_progress
from .data import unfold
from .runtime import load_model
from .sampling import STEPS, sample
from .sheet import contact_sheet, psnr

SOURCE = Path(__file__).with_name("assets") / "digits-flux-fp8.safetensors"
CONVERTED_NAME = "digits-flux-nvfp4.safetensors"
GOOD_PSNR_DB = 34.0
"""The project's bound for samples with quantized activations against the FP8 source."""

LABELS = [label for _ in range(2) for label in range(10)]
SEEDS = [1000 + number for number in range(len(LABELS))]
BATCH = 10


@dataclass(frozen=True)
class Quality:
    """How close the converted model's samples are to the source's, PSNR in dB over all pictures together."""

    quantized_db: float
    worst_picture_db: float
    emulated_db: float

    @property
    def good(self) -> bool:
        return self.quantized_db >= GOOD_PSNR_DB


def generate(
    model: nn.Module, label: str, progress: Progress, calibrate: bool = False
) -> tuple[Tensor, Calibration | None]:
    """The demo's pictures [20, 32, 32] from one model, and statistics of its activations if asked for.

    Every batch of ten is one sampling, as one press of Run would be; the statistics are merged.
    """
    pictures: list[Tensor] = []
    calibration: Calibration | None = None
    total = STEPS * math.ceil(len(LABELS) / BATCH)
    for first in range(0, len(LABELS), BATCH):
        chosen = slice(first, first + BATCH)
        done = len(pictures) * STEPS
        collector = Collector(model, "curvature") if calibrate else None
        latents = sample(
            model,
            LABELS[chosen],
            SEEDS[chosen],
            observing=collector.observing if collector else None,
            on_step=lambda step, _, done=done: progress(done + step, total, label),
        )
        pictures.append(unfold(latents))
        if collector:
            seen = collector.finish(images=len(LABELS[chosen]))
            calibration = seen if calibration is None else calibration.merged(seen)
    return torch.cat(pictures), calibration


def run_demo(out: Path, progress: Progress = no_progress) -> int:
    """Generate, calibrate, convert, generate again, compare; write everything to the folder ``out``.

    Files: ``contact-sheet.png``, ``calibration.safetensors``, the converted checkpoint, its report (JSON,
    Markdown, plots) and ``quality.json``. Files of an earlier demo in the same folder are replaced.

    Args:
        out: folder, made if missing.
        progress: called with (done, total, what is being done) of each stage.

    Returns:
        0 when the verification found nothing and the samples' PSNR reaches ``GOOD_PSNR_DB`` with quantized
        activations, else 1.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    target = out / CONVERTED_NAME

    before, calibration = generate(load_model(SOURCE), "generating with the FP8 model, calibrating", progress, True)
    assert calibration is not None
    save(calibration, out / "calibration.safetensors")
    print(f"Calibrated: {calibration.summary()}")

    report = convert(
        SOURCE,
        target,
        Options(),
        calibration=calibration,
        calibration_name="calibration.safetensors",
        device="cpu",
        overwrite=True,
        progress=progress,
    )
    verification = verify(SOURCE, target, progress=progress)
    report.write(report_stem(target))

    quantized, _ = generate(load_model(target), "generating with the NVFP4 model", progress)
    emulated, _ = generate(
        load_model(target, quantize_activations=False), "generating with NVFP4 weights only", progress
    )
    quality = Quality(
        quantized_db=psnr(before, quantized),
        worst_picture_db=min(psnr(one, other) for one, other in zip(before, quantized, strict=True)),
        emulated_db=psnr(before, emulated),
    )
    _write_comparison(out, report, quality, before, quantized)
    good = quality.good and not verification.problems
    _tell(out, report, quality, list(verification.problems))
    return 0 if good else 1


def _write_comparison(out: Path, report: Report, quality: Quality, before: Tensor, after: Tensor) -> None:
    summary = report.summary
    title = (
        f"FP8 {summary['source_bytes'] / 1e6:.1f} MB, mixed NVFP4/FP8 {summary['output_bytes'] / 1e6:.1f} MB. "
        f"Quantized weights and activations: PSNR {quality.quantized_db:.1f} dB"
    )
    contact_sheet(title, LABELS, SEEDS, before, after).save(out / "contact-sheet.png")
    facts = {
        "images": len(LABELS),
        "steps": STEPS,
        "psnr_quantized_activations_db": round(quality.quantized_db, 2),
        "psnr_worst_image_db": round(quality.worst_picture_db, 2),
        "psnr_weights_only_db": round(quality.emulated_db, 2),
        "good": quality.good,
        "bound_db": GOOD_PSNR_DB,
        "conversion": summary,
    }
    unfinished = out / "quality.json.partial"
    unfinished.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, out / "quality.json")


def _tell(out: Path, report: Report, quality: Quality, problems: list[str]) -> None:
    """The closing lines: where things lie and how good they are."""
    summary = report.summary
    stem = report_stem(out / CONVERTED_NAME).name
    print(f"Wrote to {out}:")
    print("  contact-sheet.png        source above, converted below, same seeds")
    print(f"  {CONVERTED_NAME}  the converted checkpoint")
    print(f"  {stem}.md   the report; also as .json, with plots as .png")
    print("  calibration.safetensors  the activation statistics")
    print(
        f"Size {summary['source_bytes'] / 1e6:.2f} MB -> {summary['output_bytes'] / 1e6:.2f} MB "
        f"({summary['ratio']:.2f} of the source), {summary['nvfp4_layers']} layers NVFP4, {summary['fp8_layers']} FP8."
    )
    print(
        f"Weights: mean SQNR {summary['mean_sqnr_db']:.1f} dB, worst {summary['worst_sqnr_db']:.1f} dB "
        f"in {summary['worst_layer']}."
    )
    print(
        f"Samples against the FP8 source: PSNR {quality.quantized_db:.1f} dB with quantized activations "
        f"(worst picture {quality.worst_picture_db:.1f}), {quality.emulated_db:.1f} dB with weights alone."
    )
    for problem in problems:
        print(f"Problem: {problem}")
    if quality.good and not problems:
        print(f"Good: verified, and above the bound of {GOOD_PSNR_DB:.0f} dB.")
    else:
        print(f"Not good: the bound is {GOOD_PSNR_DB:.0f} dB and no problem in verification.")
