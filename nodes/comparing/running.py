"""What the compare nodes do when they are executed: sample or take pictures, judge them, show the outcome."""

from __future__ import annotations

import math
import os
from dataclasses import asdict
from typing import Any

import comfy.utils
import torch
from comfy_api.latest import io, ui
from comfy_execution.graph_utils import ExecutionBlocker

from ...converters.pictures import relative_rms
from .. import host
from ..texts import kernels_text
from .formats import hardware_note, what_runs
from .outcome import Latents, Outcome
from .sampling import Sampled, Settings, flat, sample_both
from .shown import COMPARISON_OUTPUT, SLIDER_OUTPUT, Pictures, as_image, with_trajectory

NO_VAE = "Connect a VAE to NVFP4 Compare: without one it has latents to compare, but no pictures."


def compared(
    cls: type[io.ComfyNode],
    source: Any,
    converted: Any,
    settings: Settings,
    positive: Any,
    negative: Any,
    latent_image: dict[str, Any],
    vae: Any,
) -> io.NodeOutput:
    """Sample both models alike and judge what they drew."""
    node_id = cls.hidden.unique_id
    names = _names(source, converted)
    ran = [what_runs(model) for model in (source, converted)]
    tell = _progress(node_id, names)
    try:
        sampled = sample_both((source, converted), settings, positive, negative, latent_image, tell)
    except host.Interrupted:
        host.show_text(node_id, "Cancelled. Both models are off the device.")
        raise
    found = {
        "names": names,
        "latents": _latents(sampled),
        "settings": asdict(settings),
        "hardware": {"first": ran[0].as_json(), "second": ran[1].as_json()},
    }
    of_hardware = (hardware_note(ran[1]), kernels_text(ran[1].device))
    notes = [note for note in (*of_hardware, _schedule_note(sampled), _kept_note(sampled)) if note]
    if vae is None:
        outcome = Outcome(**found, notes=[NO_VAE, *notes])
        image = as_image(with_trajectory(None, outcome)) if sampled.steps else torch.ones(1, 8, 8, 3)
        blocked = [ExecutionBlocker(NO_VAE)] * 5
        return io.NodeOutput(image, outcome.markdown(), *blocked, ui=_shown(cls, outcome, image, {}))
    host.show_text(node_id, "Decoding both results.")
    images = [_decoded(vae, samples) for samples in (sampled.first, sampled.second)]
    return judged(cls, images[0], images[1], found, notes)


def judged(
    cls: type[io.ComfyNode],
    first: torch.Tensor,
    second: torch.Tensor,
    found: dict[str, Any],
    notes: list[str],
    *,
    hand_on: bool = True,
) -> io.NodeOutput:
    """Figures, sheet and slider of two batches of pictures."""
    pictures = Pictures(first, second, host.progress_bar(cls.hidden.unique_id))
    notes = [*pictures.notes(found["names"]), *notes]
    outcome = Outcome(**found, scores=pictures.scores, summary=pictures.summary, gain=pictures.gain, notes=notes)
    image = as_image(with_trajectory(pictures.sheet(outcome), outcome))
    slider = {SLIDER_OUTPUT: [pictures.slider(outcome.names, cls)]}
    summary = pictures.summary
    figures = (summary.psnr, summary.ssim, summary.haarpsi)
    handed_on = (first, second) if hand_on else ()
    return io.NodeOutput(image, outcome.markdown(), *figures, *handed_on, ui=_shown(cls, outcome, image, slider))


def _shown(cls: type[io.ComfyNode], outcome: Outcome, image: torch.Tensor, slider: dict[str, Any]) -> dict[str, Any]:
    lines = "\n".join(outcome.lines())
    host.show_text(cls.hidden.unique_id, lines)
    preview = ui.PreviewImage(image, cls=cls).as_dict()
    return {**preview, host.STATUS_OUTPUT: [lines], COMPARISON_OUTPUT: [outcome.as_json()], **slider}


def _progress(node_id: str, names: tuple[str, str]) -> Any:
    """One bar over both samplings; each step is a cancel point."""
    bar = comfy.utils.ProgressBar(2, node_id=node_id)

    def tell(which: int, done: int, steps: int, preview: Any) -> None:
        host.raise_if_cancelled()
        bar.update_absolute(which * steps + done, 2 * steps, preview)
        host.show_text(node_id, f"{names[which]}: step {done} of {steps} (model {which + 1} of 2)")

    return tell


def _names(*models: Any) -> tuple[str, str]:
    """File names, where the loader left them on the model and they differ."""
    paths = [
        made[1][0] if (made := getattr(model, "cached_patcher_init", None)) and made[1] else None for model in models
    ]
    found = [os.path.splitext(os.path.basename(path))[0] if isinstance(path, str) else "" for path in paths]
    return (found[0], found[1]) if all(found) and found[0] != found[1] else ("source", "converted")


def _latents(sampled: Sampled) -> Latents:
    steps = [
        {
            "step": step.number,
            "sigma": step.sigmas[0] if step.sigmas else None,
            "relative_rms": step.errors,
        }
        for step in sampled.steps
    ]
    kept = (
        {"dtype": str(sampled.kept.dtype).removeprefix("torch."), "every": sampled.kept.every} if sampled.kept else None
    )
    final = relative_rms(flat(sampled.first), flat(sampled.second))
    return Latents(final, steps, kept, sampled.seconds, sampled.seconds_per_step)


def _schedule_note(sampled: Sampled) -> str:
    """Two models with other schedules (a shift set on one of them) are no fair pair; a sampler may have none."""
    pairs = [step.sigmas for step in sampled.steps if step.sigmas]
    if sampled.steps and not pairs:
        return "This sampler chooses its own noise levels: the same step of both models may stand at different ones."
    if all(math.isclose(first, second, rel_tol=1e-5, abs_tol=1e-7) for first, second in pairs):
        return ""
    return (
        "The two models have different noise schedules: set the same shift on both, or the figures show that instead."
    )


def _kept_note(sampled: Sampled) -> str:
    if sampled.kept is None or sampled.kept.dtype == torch.float32:
        return ""
    which = "" if sampled.kept.every == 1 else f" of every {sampled.kept.every}th step"
    return f"The latents{which} were kept in float16 to save memory: errors below 0.05 % are not seen."


def _decoded(vae: Any, samples: Any) -> torch.Tensor:
    """As VAEDecode: [B, H, W, C], the frames of a video one after the other."""
    images = vae.decode(samples.unbind()[0] if samples.is_nested else samples)
    return images.reshape(-1, *images.shape[-3:]) if images.ndim == 5 else images
