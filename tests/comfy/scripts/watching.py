# ruff: noqa: E402, I001  (ComfyUI must be set up before it is imported)
"""Samples with and without calibration, and finds out by other means than hooks what ComfyUI multiplied meanwhile."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bootstrap import REQUEST, hooks_on, load_pack

import comfy.model_management
import comfy.ops
import torch

load_pack()
from custom_nodes_nvfp4.calibration import load
from custom_nodes_nvfp4.nodes import patching

WORK = Path(REQUEST["work"])
Sampling = Callable[[Any], torch.Tensor]


class Ran:
    """Which matrix layers of a model ran: calls and amax of those whose class's ``forward`` was entered, and
    which others had their weights fetched (``cast_bias_weight``), as fused paths and expert banks do."""

    def __init__(self, root: torch.nn.Module):
        self._root = root
        self.names = {id(module): name for name, module in root.named_modules() if _is_matrix(module)}
        self._classes = {type(module) for module in root.modules() if id(module) in self.names}
        self.calls: dict[str, int] = {}
        self.amax: dict[str, float] = {}
        self.fetched: set[str] = set()

    @contextlib.contextmanager
    def watching(self) -> Iterator[Ran]:
        """Put look-outs into the classes and into ``comfy.ops``, and take them out again."""
        comfy.model_management.unload_all_models()  # ends injections, which stand before the classes' own forward
        for module in self._root.modules():
            vars(module).pop("forward", None)
        forwards = {kind: kind.forward for kind in self._classes if "forward" in vars(kind)}
        cast = comfy.ops.cast_bias_weight

        def fetch(module: Any, *args: Any, **kwargs: Any) -> Any:
            if id(module) in self.names:
                self.fetched.add(self.names[id(module)])
            return cast(module, *args, **kwargs)

        comfy.ops.cast_bias_weight = fetch
        for kind, forward in forwards.items():
            kind.forward = self._noticing(forward)
        try:
            yield self
        finally:
            comfy.ops.cast_bias_weight = cast
            for kind, forward in forwards.items():
                kind.forward = forward

    def _noticing(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def noticed(module: Any, *args: Any, **kwargs: Any) -> Any:
            name = self.names.get(id(module))
            values = args[0] if args else kwargs["input"]
            if name is not None and values.numel():
                self.calls[name] = self.calls.get(name, 0) + 1
                self.amax[name] = max(self.amax.get(name, 0.0), float(values.detach().abs().amax()))
            return forward(module, *args, **kwargs)

        return noticed


def _is_matrix(module: torch.nn.Module) -> bool:
    """Holds a weight [out, in] or [experts, out, in] that is no table and no convolution's."""
    weight = vars(module).get("_parameters", {}).get("weight")
    others = (torch.nn.Embedding, torch.nn.modules.conv._ConvNd, torch.nn.LayerNorm, torch.nn.RMSNorm)
    return weight is not None and len(weight.shape) in (2, 3) and not isinstance(module, others)


def calibrated(model: Any, name: str, texts: list[str] | None = None) -> Any:
    """A clone of the model with the patch that the node adds."""
    show = (texts if texts is not None else []).append
    return patching.add_calibration(model, patching.CalibrationPatch(path_of(name), restart=False, show=show))


def path_of(name: str) -> Path:
    return WORK / "calibrations" / f"{name}.safetensors"


def compare(name: str, model: Any, sample: Sampling, plain: Any = None) -> dict[str, Any]:
    """Sample without and with calibration; what differs, and where statistics and what ran do not agree.

    ``plain`` is the model to sample without calibration where it is another one (not compiled, say).
    """
    expected = sample(model if plain is None else plain)
    root = model.model.diffusion_model
    ran = Ran(root)
    texts: list[str] = []
    with ran.watching():
        seen = sample(calibrated(model, name, texts))
    found = load(path_of(name))
    listed = set(found.layers) | set(found.unobserved)
    return {
        "equal": torch.equal(expected, seen) and bool(torch.isfinite(seen).all()) and float(seen.abs().amax()) > 0,
        "hooks": hooks_on(root),
        "layers": len(found.layers),
        "unobserved": found.unobserved,
        "unlisted": sorted((ran.fetched | set(ran.calls)) - listed),
        "wrong_calls": {
            layer: [found.layers[layer].calls if layer in found.layers else 0, ran.calls.get(layer, 0)]
            for layer in sorted(set(found.layers) | set(ran.calls))
            if layer not in found.layers or found.layers[layer].calls != ran.calls.get(layer, 0)
        },
        "wrong_amax": sorted(
            layer
            for layer, held in found.layers.items()
            if not math.isclose(held.amax, ran.amax.get(layer, -1.0), rel_tol=1e-6)
        ),
        "counts": [found.samplings, found.images, found.steps],
        "schedule": found.schedule.sum(1).tolist(),
        "adaptations": found.adaptations,
        "texts": texts,
    }
