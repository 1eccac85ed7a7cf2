"""NVFP4Compare samples two models alike and shows what differs; NVFP4CompareImages does it with ready pictures."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import torch
from comfy_api.latest import io

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
        from .comparing.running import Settings, compared  # With all that comparing needs: not before the first run.

        settings = Settings(seed, steps, cfg, sampler_name, scheduler, denoise)
        return compared(cls, source, converted, settings, positive, negative, latent_image, vae)


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
        from .comparing.running import judged

        return judged(cls, source_images, converted_images, {"names": ("source", "converted")}, [], hand_on=False)
