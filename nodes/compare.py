"""NVFP4Compare samples two models alike and shows what differs; NVFP4CompareImages does it with ready pictures."""

from __future__ import annotations

import math
import os
from dataclasses import asdict
from typing import Any

import comfy.samplers
import comfy.utils
import torch
from comfy_api.latest import io, ui
from comfy_execution.graph_utils import ExecutionBlocker

from ..converters.pictures import relative_rms
from . import host
from .comparing.formats import hardware_note, what_runs
from .comparing.outcome import Latents, Outcome
from .comparing.sampling import Sampled, Settings, flat, sample_both
from .comparing.shown import COMPARISON_OUTPUT, SLIDER_OUTPUT, Pictures, as_image, with_trajectory

NO_VAE = "Connect a VAE to NVFP4 Compare: without one it has latents to compare, but no pictures."
SHEET = io.Image.Output(display_name="sheet", tooltip="Pictures side by side, their difference, and the error by step.")
TEXT = io.String.Output(display_name="text", tooltip="All figures in Markdown, with a table of pictures and of steps.")
FIGURES = (
    io.Float.Output(display_name="PSNR", tooltip="PSNR in dB, the mean of the pictures; infinite when they are equal."),
    io.Float.Output(display_name="SSIM", tooltip="SSIM, the mean of the pictures; 1 when they are equal."),
    io.Float.Output(
        display_name="HaarPSI", tooltip="HaarPSI, a perceptual similarity, the mean; 1 when they are equal."
    ),
)


class NVFP4Compare(io.ComfyNode):
    """Two KSamplers in one, of which only one holds its model at a time."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVFP4Compare",
            display_name="NVFP4 Compare",
            category="NVFP4 Studio",
            description="Samples two models with the same noise, conditioning and settings, and shows how far the pictures "
            "and the latents of each step are apart. Only one model is on the GPU at a time.",
            search_aliases=[
                "compare models",
                "quality of quantization",
                "psnr",
                "ssim",
                "haarpsi",
                "side by side",
                "slider",
            ],
            inputs=[
                io.Model.Input("source", tooltip="The model that is right by definition: what was converted."),
                io.Model.Input(
                    "converted", tooltip="The model to judge, with the same LoRAs and patches as the source."
                ),
                io.Conditioning.Input("positive", tooltip="What to draw, for both models."),
                io.Conditioning.Input(
                    "negative", tooltip="What to leave out, for both models. Without effect at cfg 1."
                ),
                io.Latent.Input(
                    "latent_image", tooltip="Empty or encoded latent, image or video; batches are compared too."
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Decodes both results. Without it the latents are compared and there are no pictures.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Noise of both models.",
                ),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Steps of both models."),
                io.Float.Input(
                    "cfg", default=1.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="Guidance of both models."
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.KSampler.SAMPLERS,
                    default="euler",
                    tooltip="Sampler of both models. One without noise of its own (euler) shows the models' difference best.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    default="simple",
                    tooltip="Noise schedule of both models.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of the latent is replaced; 1 starts from noise alone.",
                ),
            ],
            outputs=[
                SHEET,
                TEXT,
                *FIGURES,
                io.Image.Output(display_name="source_images", tooltip="What the source drew."),
                io.Image.Output(display_name="converted_images", tooltip="What the converted model drew."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        source: Any,
        converted: Any,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        denoise: float,
        vae: Any = None,
    ) -> io.NodeOutput:
        node_id = cls.hidden.unique_id
        names = _names(source, converted)
        settings = Settings(seed, steps, cfg, sampler_name, scheduler, denoise)
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
        notes = [note for note in (hardware_note(ran[1]), _schedule_note(sampled), _kept_note(sampled)) if note]
        if vae is None:
            outcome = Outcome(**found, notes=[NO_VAE, *notes])
            image = as_image(with_trajectory(None, outcome)) if sampled.steps else torch.ones(1, 8, 8, 3)
            blocked = [ExecutionBlocker(NO_VAE)] * 5
            return io.NodeOutput(image, outcome.markdown(), *blocked, ui=_shown(cls, outcome, image, {}))
        host.show_text(node_id, "Decoding both results.")
        images = [_decoded(vae, samples) for samples in (sampled.first, sampled.second)]
        return _judged(cls, images[0], images[1], found, notes)


class NVFP4CompareImages(io.ComfyNode):
    """The same figures of pictures that any workflow made."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVFP4CompareImages",
            display_name="NVFP4 Compare Images",
            category="NVFP4 Studio",
            description="Shows how far two pictures, or two batches or videos of the same size, are apart: PSNR, SSIM, "
            "HaarPSI, difference map and slider.",
            search_aliases=["compare images", "difference map", "psnr", "ssim", "haarpsi", "side by side", "slider"],
            inputs=[
                io.Image.Input("source_images", tooltip="The pictures that are right by definition."),
                io.Image.Input("converted_images", tooltip="The pictures to judge: as many, of the same size."),
            ],
            outputs=[SHEET, TEXT, *FIGURES],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, source_images: torch.Tensor, converted_images: torch.Tensor) -> io.NodeOutput:
        return _judged(cls, source_images, converted_images, {"names": ("source", "converted")}, [], hand_on=False)


def _judged(
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
