# ruff: noqa: E402, I001  (ComfyUI must be set up before it is imported)
"""The demo model sampled while its layers' influence is measured, against sampling as usual."""

from __future__ import annotations

from pathlib import Path

from bootstrap import REQUEST, answer, hooks_on, load_pack

import comfy.sd
import torch
from comfy_extras.nodes_easycache import EasyCacheNode
from nodes import common_ksampler

load_pack()
from custom_nodes_nvfp4.calibration import load
from custom_nodes_nvfp4.converters.sensitivity import beside, load_probes
from custom_nodes_nvfp4.demo.conditioning import class_conditioning
from custom_nodes_nvfp4.nodes import patching

STEPS = 10
calls = 0
texts: list[str] = []
model = comfy.sd.load_diffusion_model(str(Path(REQUEST["pack"]) / "demo" / "assets" / "digits-flux-fp8.safetensors"))


def counted(executor: object, *args: object, **kwargs: object) -> torch.Tensor:
    global calls
    calls += 1
    return executor(*args, **kwargs)


def sampled(patched: object, seed: int, cfg: float = 1.0) -> torch.Tensor:
    context, pooled = class_conditioning(range(4))
    conditioning = [[context, {"pooled_output": pooled}]]
    latent = {"samples": torch.zeros(4, 16, 8, 8)}
    return common_ksampler(patched, seed, STEPS, cfg, "euler", "simple", conditioning, conditioning, latent)[0][
        "samples"
    ]


def main() -> None:
    path = Path(REQUEST["work"]) / "probed.safetensors"
    observed = model.clone()
    observed.add_wrapper_with_key(patching.WrappersMP.APPLY_MODEL, "counted", counted)

    def probed(restart: bool = False) -> object:
        patch = patching.CalibrationPatch(path, restart=restart, show=texts.append, influence=True)
        return patching.add_calibration(observed, patch)

    equal = [torch.equal(sampled(model, seed, cfg), sampled(probed(), seed, cfg)) for seed, cfg in ((1, 1.0), (2, 2.0))]
    first = load_probes(beside(path))
    for seed in range(3, 9):
        sampled(probed(), seed)
    found = load_probes(beside(path))
    steps, called = load(path).steps, calls
    sampled(probed(restart=True), 20)
    text, begun = texts[-1], [load_probes(beside(path))]
    for seed in (21, 20):
        sampled(probed(restart=True), seed)
        begun.append(load_probes(beside(path)))
    cached = EasyCacheNode.execute(model.clone(), 0.2, 0.1, 0.9, False)[0]
    patch = patching.CalibrationPatch(path, restart=True, show=texts.append, influence=True)
    wrapped = torch.equal(sampled(cached, 30), sampled(patching.add_calibration(cached, patch), 30))
    answer(
        wrapped=wrapped,
        hindered=texts[-1],
        equal=equal,
        steps=steps,
        calls=called,
        first={name: probes.count for name, probes in first.items()},
        counts={name: probes.count for name, probes in found.items()},
        influence={name: probes.influence for name, probes in found.items()},
        hooks=hooks_on(model.model.diffusion_model),
        text=text,
        after_restart=sorted(probes.count for probes in begun[0].values()),
        repeated=begun[0] == begun[2],
        together=len({*begun[0], *begun[1]}),
        left=beside(path).exists(),
    )


main()
