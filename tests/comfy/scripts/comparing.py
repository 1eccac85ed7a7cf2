# ruff: noqa: E402, I001  (ComfyUI must be set up before it is imported)
"""Sample pairs of models with the compare node's own function beside ComfyUI's KSampler, and watch what is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bootstrap import REQUEST, answer, load_pack

import comfy.model_management as management
import comfy.nested_tensor
import comfy.patcher_extension
import comfy.quant_ops
import comfy.sample
import comfy.sd
import torch
from nodes import VAEDecode, common_ksampler

import mini_models

load_pack()
from custom_nodes_nvfp4.converters import Options, convert
from custom_nodes_nvfp4.converters.pictures import relative_rms
from custom_nodes_nvfp4.demo.conditioning import class_conditioning
from custom_nodes_nvfp4.nodes import hardware, host
from custom_nodes_nvfp4.nodes.comparing import running, sampling
from custom_nodes_nvfp4.nodes.comparing.formats import hardware_note, what_runs
from custom_nodes_nvfp4.nodes.comparing.shown import Pictures

SOURCE = Path(REQUEST["pack"]) / "demo" / "assets" / "digits-flux-fp8.safetensors"
TARGET = Path(REQUEST["work"]) / "digits-nvfp4.safetensors"
convert(SOURCE, TARGET, Options(rounding="nearest"))
SETTINGS = sampling.Settings(seed=7, steps=5, cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0)


def kernels_by_registry() -> list[bool]:
    """Whether CUDA kernels are used: here, where the registry has them and they are on, and where they are switched off."""
    registry = comfy.quant_ops.ck.registry
    backends, disabled, found = dict(registry._backends), set(registry._disabled), [hardware.cuda_kernels()]
    try:
        registry.register("cuda", None, {})
        for switch in (registry.enable, registry.disable):
            switch("cuda")
            found.append(hardware.cuda_kernels())
    finally:
        registry._backends, registry._disabled = backends, disabled
    return found


def loaded() -> list[int]:
    return [id(entry.model.model) for entry in management.current_loaded_models]


def resident_during(models: tuple[Any, Any], run: Any) -> dict[str, Any]:
    """What `run` gives, and at each model call how many models were loaded and whether it was the one that ran."""
    seen = []

    def watch(executor: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(loaded() == [id(executor.class_obj)])
        return executor(*args, **kwargs)

    for model in models:
        model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "watch", watch)
    try:
        result = run()
    finally:
        for model in models:
            model.remove_wrappers_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "watch")
    return {"result": result, "calls": len(seen), "alone": all(seen), "left": len(loaded())}


def denoised(model: Any, settings: sampling.Settings, positive: Any, latent: dict[str, Any]) -> list[torch.Tensor]:
    """ComfyUI's predictions at each step, recorded here."""
    image = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    noise = comfy.sample.prepare_noise(image, settings.seed, latent.get("batch_index"))
    found: list[torch.Tensor] = []
    comfy.sample.sample(
        model, noise, settings.steps, settings.cfg, settings.sampler_name, settings.scheduler, positive, positive, image,
        denoise=settings.denoise, noise_mask=latent.get("noise_mask"), seed=settings.seed, disable_pbar=True,
        callback=lambda step, x0, x, total: found.append(x0.clone()),
    )  # fmt: skip
    return found


def compared(
    models: tuple[Any, Any], positive: Any, latent: dict[str, Any], settings: sampling.Settings
) -> dict[str, Any]:
    """The compare node's sampling against two KSamplers."""
    told: list[tuple[int, int, int]] = []
    watched = resident_during(
        models,
        lambda: sampling.sample_both(models, settings, positive, positive, latent, lambda *step: told.append(step[:3])),
    )
    sampled = watched.pop("result")
    plain = [
        common_ksampler(
            model, settings.seed, settings.steps, settings.cfg, settings.sampler_name, settings.scheduler, positive,
            positive, latent, denoise=settings.denoise,
        )[0]["samples"]
        for model in models
    ]  # fmt: skip
    first, second = (denoised(model, settings, positive, latent) for model in models)
    expected = [
        ((b.double() - a.double()).flatten(1).norm(dim=1) / a.double().flatten(1).norm(dim=1)).tolist()
        for a, b in zip(first, second, strict=True)
    ]
    management.unload_all_models()
    return {
        **watched,
        "told": told,
        "identical": [
            torch.equal(ours, theirs) for ours, theirs in zip((sampled.first, sampled.second), plain, strict=True)
        ],
        "shape": list(sampled.first.shape),
        "final": relative_rms(sampled.first, sampled.second),
        "errors": [step.errors for step in sampled.steps],
        "expected": expected,
        "levels": [list(step.sigmas) if step.sigmas else None for step in sampled.steps],
        "kept": [str(sampled.kept.dtype), sampled.kept.every],
        "per_step": [value is not None and value > 0 for value in sampled.seconds_per_step],
    }


def cancelled(models: tuple[Any, Any], positive: Any, latent: dict[str, Any], which: int) -> dict[str, Any]:
    """Press cancel in the third step of one of the two."""

    def tell(model: int, done: int, *_: Any) -> None:
        if (model, done) == (which, 3):
            management.interrupt_current_processing()
        host.raise_if_cancelled()

    try:
        sampling.sample_both(models, SETTINGS, positive, positive, latent, tell)
    except host.Interrupted:
        return {"raised": True, "left": len(loaded())}
    return {"raised": False, "left": len(loaded())}


class Frames:
    """A VAE that hands back what it got, channels last: pictures of an image latent, frames of a video."""

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        return samples[:, :3].movedim(1, -1)


def decoded_alike(samples: Any) -> bool:
    """Whether the node decodes as ComfyUI's VAEDecode does."""
    (theirs,) = VAEDecode().decode(Frames(), {"samples": samples})
    return torch.equal(running._decoded(Frames(), samples), theirs)


with torch.inference_mode():
    pair = tuple(comfy.sd.load_diffusion_model(str(path)) for path in (SOURCE, TARGET))
    context, pooled = class_conditioning(range(3))
    digits = [[context, {"pooled_output": pooled}]]
    batch = {"samples": torch.zeros(3, 16, 8, 8)}
    video = tuple(mini_models.model("WAN21_T2V", mini_models.WAN, seed) for seed in (0, 1))
    words = mini_models.text(6, 4096)
    frames = {"samples": torch.zeros(2, 16, 3, 8, 8)}
    masked = {"samples": torch.randn(3, 16, 8, 8), "noise_mask": torch.rand(1, 1, 64, 64), "batch_index": [4, 0, 2]}
    answers: dict[str, Any] = {
        "image": compared(pair, digits, batch, SETTINGS),
        "partly": compared(pair, digits, masked, sampling.Settings(3, 4, 1.0, "dpmpp_2m", "normal", 0.5)),
        "video": compared(video, words, frames, sampling.Settings(1, 3, 1.0, "euler", "simple", 1.0)),
        "same": compared((pair[0], pair[0].clone()), digits, batch, SETTINGS),
    }
    management.load_models_gpu([pair[1]])
    answers["cancelled"] = [cancelled(pair, digits, batch, which) for which in (0, 1)]
    own_steps = sampling.sample_both(
        pair, sampling.Settings(1, 4, 1.0, "dpm_adaptive", "simple", 1.0), digits, digits, batch, lambda *_: None
    )
    answers["own_steps"] = [len(own_steps.steps), [step.sigmas for step in own_steps.steps[:1]]]
    try:
        sampling.sample_both((pair[0], video[0]), SETTINGS, digits, digits, batch, lambda *_: None)
    except host.HostError as error:
        answers["different"] = str(error)
    sound = comfy.nested_tensor.NestedTensor([torch.ones(2, 4, 3, 2, 2), torch.full((2, 5), 2.0)])
    answers["nested"] = list(sampling.flat(sound).shape)
    answers["decoded"] = [decoded_alike(samples) for samples in (masked["samples"], torch.rand(2, 4, 3, 8, 8), sound)]
    untouched = sampling.sample_both(
        pair, sampling.Settings(1, 4, 1.0, "euler", "simple", 0.0), digits, digits, masked, lambda *_: None
    )
    answers["untouched"] = [torch.equal(untouched.first, masked["samples"]), untouched.steps, untouched.kept]
    broken = torch.rand(2, 16, 16, 3)
    broken[1, 3, 4, 2] = torch.nan
    answers["broken"] = Pictures(torch.rand(2, 16, 16, 3), broken, lambda *_: None).notes(("a", "b"))
    ran = what_runs(pair[1])
    answers["runs"], answers["note"] = ran.as_json(), hardware_note(ran)
    answers["source_note"] = hardware_note(what_runs(pair[0]))
answers["kernels"] = [kernels_by_registry(), hardware.own_device()["kernels"]]

answer(**answers)
