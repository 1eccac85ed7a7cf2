# ruff: noqa: E402, I001  (ComfyUI must be set up before it is imported)
"""What ties statistics to a model: passes, LoRA, other checkpoints of the same shapes, levels of detail."""

from __future__ import annotations

from pathlib import Path

from bootstrap import REQUEST, answer, hooks_on, load_pack

import comfy.sd
import torch
from nodes import common_ksampler
from small_models import conditioning, write_flux

load_pack()
from custom_nodes_nvfp4.calibration import load
from custom_nodes_nvfp4.calibration.errors import CalibrationError
from custom_nodes_nvfp4.nodes import patching

WORK = Path(REQUEST["work"])
LAYER = "double_blocks.0.img_mlp.0"
texts: list[str] = []


def model_of(name: str, **shape: object) -> object:
    path = WORK / name
    write_flux(str(path), **shape)
    return comfy.sd.load_diffusion_model(str(path))


def calibrated(model: object, name: str, detail: str = "scales") -> object:
    patch = patching.CalibrationPatch(WORK / f"{name}.safetensors", restart=False, show=texts.append, detail=detail)
    return patching.add_calibration(model, patch)


def sample(model: object, seed: int = 7, cfg: float = 1.0) -> torch.Tensor:
    latent = {"samples": torch.zeros(1, 16, 8, 8)}
    positive, negative = conditioning(seed=1), conditioning(seed=2)
    return common_ksampler(model, seed, 4, cfg, "euler", "simple", positive, negative, latent)[0]["samples"]


def with_lora(model: object, strength: float) -> object:
    """A clone with a change of one weight, as a LoRA loader adds it."""
    changed = model.clone()
    shape = model.model.diffusion_model.double_blocks[0].img_mlp[0].weight.shape
    delta = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(3)) * 5
    changed.add_patches({f"diffusion_model.{LAYER}.weight": ("diff", (delta,))}, strength)
    return changed


def found_in(name: str) -> object:
    return load(WORK / f"{name}.safetensors")


def passes(model: object, result: dict[str, object]) -> None:
    sample(calibrated(model, "one_pass"), cfg=1.0)
    sample(calibrated(model, "two_passes"), cfg=3.0)
    for name in ("one_pass", "two_passes"):
        calibration = found_in(name)
        layer = calibration.layers["double_blocks.0.txt_attn.qkv"]
        seen = [int((layer.schedule_amax[number] > 0).sum()) for number in (0, 1)]
        result[name] = {"schedule": calibration.schedule.sum(1).tolist(), "steps": calibration.steps, "seen": seen}
    result["differ"] = bool((layer.schedule_amax[0] != layer.schedule_amax[1]).any())


def loras(model: object, result: dict[str, object]) -> None:
    sample(calibrated(model, "adapted"))
    original = found_in("adapted").layers[LAYER].weight_samples
    changed = with_lora(model, 0.75)
    moved = sample(changed, seed=8)
    result["lora_moves"] = not torch.equal(moved, sample(model, seed=8))
    sample(changed)  # now its weights are the ones in the modules
    sample(calibrated(changed, "adapted"), seed=8)
    merged = found_in("adapted")
    result["adaptations"] = merged.adaptations
    result["fingerprint_kept"] = torch.equal(merged.layers[LAYER].weight_samples, original)
    result["lora_text"] = texts[-1]


def checkpoints(result: dict[str, object]) -> None:
    sample(calibrated(model_of("plain.safetensors", fp8=False), "adapted"), seed=9)
    result["rounded_alike_samplings"] = found_in("adapted").samplings
    other = model_of("other.safetensors", seed=5)
    try:
        sample(calibrated(other, "adapted"))
    except CalibrationError as error:
        result["other_checkpoint"] = str(error)
    result["samplings_after"] = found_in("adapted").samplings


def details(model: object, result: dict[str, object]) -> None:
    plain = sample(model)
    for detail in ("channels", "curvature"):
        result[f"{detail}_equal"] = torch.equal(plain, sample(calibrated(model, detail, detail)))
        sample(calibrated(model, detail, detail), seed=8)
        calibration = found_in(detail)
        layer = calibration.layers[LAYER]
        energy = float(layer.channels.mean_square().mean())
        result[detail] = {
            "samplings": calibration.samplings,
            "channels": layer.channels.rows == layer.rows and energy > 0,
            "curvature": layer.curvature is not None and layer.curvature.rows == layer.rows,
            "rows": len(layer.reservoir.values()) if layer.reservoir else 0,
        }
    result["hooks"] = hooks_on(model.model.diffusion_model)


def main() -> None:
    result: dict[str, object] = {}
    model = model_of("fp8.safetensors")
    passes(model, result)
    loras(model, result)
    checkpoints(result)
    details(model, result)
    answer(**result)


main()
