# ruff: noqa: E402, I001  (ComfyUI must be set up before it is imported)
"""Everything about sampling with and without calibration, in one process."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from bootstrap import REQUEST, answer, hooks_on, load_pack

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.sd
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_custom_sampler import DualModelGuider
from nodes import common_ksampler
from small_models import conditioning, write_flux

load_pack()
from custom_nodes_nvfp4.calibration import load
from custom_nodes_nvfp4.calibration.errors import CalibrationError
from custom_nodes_nvfp4.nodes import patching

WORK = Path(REQUEST["work"])
STEPS = 4
texts: list[str] = []


def model_of(name: str, **shape: int) -> object:
    path = WORK / name
    if not path.exists():
        write_flux(str(path), **shape)
    return comfy.sd.load_diffusion_model(str(path))


def sample(model: object, seed: int = 7, cfg: float = 1.0, callback: object = None, batch: int = 2) -> torch.Tensor:
    latent = {"samples": torch.zeros(batch, 16, 8, 8)}
    positive, negative = conditioning(seed=1), conditioning(seed=2)
    if callback is None:
        return common_ksampler(model, seed, STEPS, cfg, "euler", "simple", positive, negative, latent)[0]["samples"]
    noise = comfy.sample.prepare_noise(latent["samples"], seed)
    return comfy.sample.sample(
        model, noise, STEPS, cfg, "euler", "simple", positive, negative, latent["samples"], callback=callback, seed=seed
    )


def sample_dual(model: object, negative_model: object) -> None:
    """Positive and negative pass on two models, which get the same model options."""
    guider = DualModelGuider.execute(model, conditioning(seed=1), 2.5, negative_model, conditioning(seed=2))[0]
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
    latent = torch.zeros(1, 16, 8, 8)
    noise = comfy.sample.prepare_noise(latent, 7)
    guider.sample(noise, latent, comfy.samplers.sampler_object("euler"), sigmas, seed=7)


def calibrated(model: object, name: str, restart: bool = False) -> tuple[object, Path]:
    path = WORK / f"{name}.safetensors"
    patch = patching.CalibrationPatch(path, restart=restart, show=texts.append)
    return patching.add_calibration(model, patch), path


def facts(path: Path) -> dict[str, object]:
    found = load(path)
    return {
        "samplings": found.samplings,
        "images": found.images,
        "steps": found.steps,
        "layers": sorted(found.layers),
        "unobserved": found.unobserved,
        "schedule": found.schedule.tolist(),
        "calls": {name: layer.calls for name, layer in found.layers.items()},
        "nonfinite": found.nonfinite_layers(),
    }


def plain_and_calibrated(result: dict[str, object]) -> object:
    model = model_of("fp8.safetensors")
    diffusion_model = model.model.diffusion_model
    plain = sample(model, cfg=2.5)
    watched, path = calibrated(model, "first")
    seen = sample(watched, cfg=2.5)
    result["equal"] = torch.equal(plain, seen)
    result["moved"] = bool(plain.abs().max() > 0)
    result["hooks"] = {"normal": hooks_on(diffusion_model)}
    result["first"] = facts(path)
    result["texts"] = list(texts)
    result["wrappers_left"] = {
        str(kind): sum(len(found) for found in by_key.values())
        for kind, by_key in model.model_options["transformer_options"].get("wrappers", {}).items()
    }
    sample(watched, seed=8, batch=1)
    result["second"] = facts(path)
    with torch.inference_mode():
        sample(watched, seed=9, batch=1)
    result["third"] = facts(path)
    result["leftovers"] = sorted(entry for entry in os.listdir(WORK) if entry.startswith((".", "first.safetensors.")))
    return model


def errors_and_interrupts(model: object, result: dict[str, object]) -> None:
    diffusion_model = model.model.diffusion_model
    for name, failure in (("error", "raise"), ("interrupt", "cancel")):
        watched, path = calibrated(model, name)

        def callback(step: int, *_: object, failure: str = failure) -> None:
            if step == 1 and failure == "raise":
                raise RuntimeError("a sampler's own error")
            if step == 1:
                comfy.model_management.interrupt_current_processing()
                comfy.model_management.throw_exception_if_processing_interrupted()

        try:
            sample(watched, callback=callback)
        except RuntimeError as error:
            result[name] = repr(error)
        except comfy.model_management.InterruptProcessingException:
            result[name] = "InterruptProcessingException"
        result["hooks"][name] = hooks_on(diffusion_model)
        result[f"{name}_facts"] = facts(path)
    watched, path = calibrated(model, "unsavable")
    path.mkdir()
    with contextlib.suppress(comfy.model_management.InterruptProcessingException):
        try:
            sample(watched)
        except CalibrationError as error:
            result["unsavable"] = str(error)
    result["hooks"]["unsavable"] = hooks_on(diffusion_model)


def modes_and_models(model: object, result: dict[str, object]) -> None:
    watched, path = calibrated(model, "restarted", restart=True)
    prompts = iter(["a", "a", "b"])
    patching.host.current_prompt = lambda: next(prompts)
    counts = []
    for seed in (1, 2, 3):
        sample(watched, seed=seed, batch=1)
        counts.append(load(path).samplings)
    result["restarted"] = counts
    patching.host.current_prompt = lambda: None

    other = model_of("other.safetensors", hidden=256)
    for source, name in ((other, "mine"), (model, "theirs"), (other, "mine")):
        sample(calibrated(source, name)[0], batch=1)
    result["mine"], result["theirs"] = facts(WORK / "mine.safetensors"), facts(WORK / "theirs.safetensors")
    chained = calibrated(calibrated(model, "outer")[0], "inner")[0]
    sample(chained, batch=1)
    result["outer"], result["inner"] = facts(WORK / "outer.safetensors"), facts(WORK / "inner.safetensors")
    negative = model_of("negative.safetensors", seed=9)
    sample_dual(calibrated(model, "dual")[0], negative)
    result["dual"] = facts(WORK / "dual.safetensors")
    result["hooks"]["dual"] = hooks_on(negative.model.diffusion_model)
    try:
        sample(calibrated(other, "theirs")[0])
    except CalibrationError as error:
        result["mismatch"] = str(error)
    result["hooks"]["mismatch"] = hooks_on(other.model.diffusion_model)


def poisoned_and_compiled(model: object, result: dict[str, object]) -> None:
    bad = model_of("bad.safetensors")
    with torch.no_grad():
        bad.model.diffusion_model.double_blocks[0].img_mlp[0].bias[3] = float("nan")
    watched, path = calibrated(bad, "poisoned")
    texts.clear()
    sample(watched, batch=1)
    result["poisoned"], result["poisoned_text"] = facts(path), texts[-1]

    compiled = model.clone()
    set_torch_compile_wrapper(compiled, backend="eager")
    plain = sample(model, batch=1)
    seen = sample(calibrated(compiled, "compiled")[0], batch=1)
    sample(calibrated(model, "uncompiled")[0], batch=1)
    result["compiled_equal"] = torch.equal(plain, seen)
    result["compiled_same_statistics"] = load(WORK / "compiled.safetensors").same_as(
        load(WORK / "uncompiled.safetensors")
    )
    result["hooks"]["compiled"] = hooks_on(model.model.diffusion_model)


def main() -> None:
    result: dict[str, object] = {}
    model = plain_and_calibrated(result)
    errors_and_interrupts(model, result)
    modes_and_models(model, result)
    poisoned_and_compiled(model, result)
    answer(**result)


main()
