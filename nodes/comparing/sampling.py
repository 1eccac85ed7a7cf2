"""Two models sampled with the same noise and settings, one after the other, as ComfyUI's own KSampler does it."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch

from ...converters.pictures import Kept, Trajectory
from ..host import HostError

OWN_STEPS = ("dpm_fast", "dpm_adaptive")
"""Samplers that take only the ends of the schedule and choose the noise levels between, the second by what it sees."""


@dataclass(frozen=True)
class Settings:
    """What KSampler asks for, by its names."""

    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    denoise: float


@dataclass(frozen=True)
class Step:
    """One step: its noise level in both samplings (None where the sampler chooses its own), and the relative RMS
    error of the denoised prediction of each latent."""

    number: int
    sigmas: tuple[float, float] | None
    errors: list[float]


@dataclass(frozen=True)
class Sampled:
    """Both final latents as KSampler would return them, and what was seen on the way."""

    first: Any
    second: Any
    steps: list[Step]
    kept: Kept | None
    seconds: tuple[float, float]
    seconds_per_step: tuple[float | None, float | None]


Tell = Callable[[int, int, int, Any], None]
"""Called after each step with (which model, steps done, steps, preview)."""


def sample_both(
    models: tuple[Any, Any], settings: Settings, positive: Any, negative: Any, latent: dict[str, Any], tell: Tell
) -> Sampled:
    """Sample ``models`` one after the other; only the one that samples is on the device, and neither is afterwards,
    also after an error or a cancel.

    The first one's prediction at each step is kept in RAM (see ``Trajectory``) until the second one was there.

    Raises:
        HostError: the models take latents of different shapes.
    """
    image = _fitted(models, latent)
    noise = comfy.sample.prepare_noise(image, settings.seed, latent.get("batch_index"))
    trajectory = Trajectory(settings.steps)
    runs = []
    unload(models[1])
    for which, (model, see) in enumerate(zip(models, (trajectory.keep, trajectory.compare), strict=True)):
        with unloaded_after(model):
            watch = _Watch(model, which, see, tell)
            samples = comfy.sample.sample(
                model, noise, settings.steps, settings.cfg, settings.sampler_name, settings.scheduler, positive, negative,
                image, denoise=settings.denoise, noise_mask=latent.get("noise_mask"), callback=watch,
                disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=settings.seed,
            )  # fmt: skip
            runs.append((samples, watch.seconds(), watch.per_step()))
    (first, seconds, each), (second, seconds_too, each_too) = runs
    steps = _steps(trajectory, settings, [_sigmas(model, settings) for model in models])
    return Sampled(first, second, steps, trajectory.kept, (seconds, seconds_too), (each, each_too))


@contextlib.contextmanager
def unloaded_after(model: Any) -> Iterator[None]:
    """Whatever happens inside, the model is not on the device afterwards."""
    try:
        yield
    finally:
        unload(model)


def unload(model: Any) -> None:
    """Move a model with all its clones off every device; others (text encoder, VAE) stay where they are."""
    comfy.model_management.unload_model_and_clones(model, all_devices=True)


def flat(latent: Any) -> torch.Tensor:
    """``[B, ...]``; the parts of a nested latent (video and sound) one behind the other."""
    if not latent.is_nested:
        return latent
    return torch.cat([part.flatten(1) for part in latent.unbind()], dim=1)


class _Watch:
    """The callback of one sampling: hands each prediction on, measures the time, makes ComfyUI's preview."""

    def __init__(self, model: Any, which: int, see: Callable[[int, torch.Tensor], None], tell: Tell) -> None:
        self._previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        self._which, self._see, self._tell = which, see, tell
        self._started = self._resumed = time.perf_counter()
        self._times: list[float] = []

    def __call__(self, step: int, x0: Any, x: Any, total_steps: int) -> None:
        # Without this a GPU's work would end inside of what is not counted.
        comfy.model_management.synchronize()
        self._times.append(time.perf_counter() - self._resumed)
        self._see(step, flat(x0))
        preview = None
        if self._previewer:
            picture = x0.tensors[0] if x0.is_nested else x0
            preview = self._previewer.decode_latent_to_preview_image("JPEG", picture)
        self._tell(self._which, step + 1, max(total_steps, step + 1), preview)
        self._resumed = time.perf_counter()

    def seconds(self) -> float:
        """Since the start, with loading."""
        return time.perf_counter() - self._started

    def per_step(self) -> float | None:
        """Median seconds of a step, the first left out, None below three steps."""
        return statistics.median(self._times[1:]) if len(self._times) >= 3 else None


def _fitted(models: tuple[Any, Any], latent: dict[str, Any]) -> Any:
    """The latent in the shape that both models take."""
    ratios = latent.get("downscale_ratio_spacial"), latent.get("downscale_ratio_temporal")
    first, second = (comfy.sample.fix_empty_latent_channels(model, latent["samples"], *ratios) for model in models)
    if first.shape != second.shape:
        raise HostError(
            f"The models take different latents, {list(first.shape)} and {list(second.shape)}: "
            "connect a model and its own conversion."
        )
    return first


def _sigmas(model: Any, settings: Settings) -> list[float]:
    sampler = comfy.samplers.KSampler(
        model,
        settings.steps,
        model.load_device,
        settings.sampler_name,
        settings.scheduler,
        settings.denoise,
        model.model_options,
    )
    return sampler.sigmas.tolist()


def _steps(trajectory: Trajectory, settings: Settings, sigmas: list[list[float]]) -> list[Step]:
    """The noise levels are known where the sampler follows its scheduler: one call back for each step of the schedule."""
    follows = settings.sampler_name not in OWN_STEPS and len(sigmas[0]) == len(sigmas[1])
    follows = follows and max(trajectory.errors, default=0) < len(sigmas[0]) - 1
    return [
        Step(number, (sigmas[0][number], sigmas[1][number]) if follows else None, errors)
        for number, errors in sorted(trajectory.errors.items())
    ]
