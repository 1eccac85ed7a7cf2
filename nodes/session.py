"""What one sampling knows while it runs: its collector, bound into the sampling's own copy of the model options."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP

from ..calibration import Calibration, Collector, conditioning_digest
from . import host
from .probing import Probing, kept

KEY = "nvfp4_studio"
"""What the pack's wrappers are called."""
COMPILE_KEY = "torch.compile"
UNCONDITIONAL = ("negative", "empty_negative_prompt")
"""What guiders call the prompts whose passes are unconditional; the others are conditional."""
GIVEN = ("cross_attn", "pooled_output")
"""What a prompt's text encoder made of it, by ComfyUI's names in a guider's conditionings."""
STATUS_SECONDS = 0.5


class Session:
    """Everything one sampling knows: its collector and the number of model calls."""

    def __init__(
        self,
        show: Callable[[int], None],
        detail: str,
        samples: dict[str, torch.Tensor],
        adapted: str,
        probing: Probing | None = None,
    ) -> None:
        self.probing = probing
        self._show = show
        self._detail = detail
        self._samples = samples
        self._adapted = adapted
        self._guider: Any = None
        self._conditioning: list[Any] = []
        self._collector: Collector | None = None
        self._lock = threading.Lock()
        self._calls = 0
        self.compiled = False
        """Whether the model is compiled, and therefore sampled without torch.compile meanwhile."""
        self._next_status = 0.0

    @contextlib.contextmanager
    def attached(self, guider: Any) -> Iterator[None]:
        """Bind the observation into this sampling's own copy of the model options.

        It goes in front of the other APPLY_MODEL wrappers, so that the module tree is looked at before a
        torch.compile wrapper swaps parts of it.
        """
        self._guider = guider
        self._conditioning = given(guider.conds)
        wrappers = guider.model_options.setdefault("transformer_options", {}).setdefault("wrappers", {})
        others = wrappers.get(WrappersMP.APPLY_MODEL, {})
        self.compiled = COMPILE_KEY in others
        wrappers[WrappersMP.APPLY_MODEL] = {f"{KEY}.{id(self):x}": [self.observe], **others}
        try:
            yield
        finally:
            wrappers[WrappersMP.APPLY_MODEL] = others

    def observe(self, executor: Any, x: torch.Tensor, t: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """One model call: hooks are there while it runs, on the modules that really run, and then no more.

        With several GPUs this is called from one thread per GPU, each with its own copy of the model. A guider
        that runs a second model hands it these options too (DualModelGuider): that one is not observed.
        """
        model = executor.class_obj
        if not self._is_mine(model):
            return executor(x, t, *args, **kwargs)
        root = model.diffusion_model
        with self._lock:
            if self._collector is None:
                self._collector = Collector(root, self._detail, self._samples)
                self.compiled = self.compiled or _compiled(root)
                if self.compiled:
                    host.log.info("Calibrating without torch.compile: compiled code does not run the hooks")
            collector = self._collector
            self._calls += 1
        self._tell()
        options = _transformer_options(args, kwargs)
        sigmas = options.get("sigmas")
        level = noise_level(model.model_sampling, t if sigmas is None else sigmas)
        eager = torch.compiler.set_stance("force_eager") if self.compiled else contextlib.nullcontext()
        repeatable = self.probing is not None and self.probing.possible(options)
        again = kept([list(args), kwargs]) if repeatable else None
        with eager:
            with collector.observing(level, root, self._passes(options)):
                result = executor(x, t, *args, **kwargs)
            if self.probing is not None and again is not None:
                repeated = again
                self.probing.after(root, x, result, lambda: executor(x, t, *repeated[0], **repeated[1]))
        return result

    def finish(self, images: int) -> Calibration | None:
        """The statistics of this sampling, None if the model was never called."""
        if self._collector is None:
            return None
        return self._collector.finish(images, self._adapted, conditioning_digest(self._conditioning))

    def _is_mine(self, model: Any) -> bool:
        """Whether this is the calibrated model or one of ComfyUI's copies of it on other GPUs."""
        copies = self._guider.model_options.get("multigpu_clones", {}).values()
        return any(model is patcher.model for patcher in (self._guider.model_patcher, *copies))

    def _passes(self, options: dict[str, Any]) -> tuple[int, ...]:
        """What the equal parts of the batch are: 0 conditional, 1 unconditional.

        ComfyUI numbers the prompts of a call in the order in which the guider gives them, which is positive
        first as a rule and negative first in DualCFGGuider; so the name of each part's prompt goes first.
        """
        numbers = options.get("cond_or_uncond") or (0,)
        prompts = {prompt.get("uuid"): name for name, found in self._guider.conds.items() for prompt in found}
        names = [prompts.get(uuid) for uuid in options.get("uuids") or ()]
        if len(names) != len(numbers) or None in names:
            return tuple(numbers)
        return tuple(int(name in UNCONDITIONAL) for name in names)

    def _tell(self) -> None:
        now = time.monotonic()
        if now >= self._next_status:
            self._next_status = now + STATUS_SECONDS
            self._show(self._calls)


def given(conds: Mapping[str, Any]) -> list[Any]:
    """What the conditional passes of a sampling are made from: of each of their prompts, in order, GIVEN.

    To be asked before the sampling: while it runs, a guider gives prompts further areas.
    """
    prompts = [prompt for name, found in conds.items() if name not in UNCONDITIONAL for prompt in found or ()]
    return [prompt.get(key) for prompt in prompts if isinstance(prompt, Mapping) for key in GIVEN]


def noise_level(model_sampling: Any, sigmas: torch.Tensor) -> torch.Tensor:
    """Where in the schedule a call stands: 0 without noise, 1 at the start; a tensor of one element, no sync.

    timestep(sigma) / timestep(sigma_max), the scale that the model itself sees. EDM's timesteps go below zero
    (a quarter of log sigma): there the range begins at timestep(sigma_min) instead of 0.
    """
    now = model_sampling.timestep(sigmas.flatten()[:1].float())
    ends = torch.stack([torch.as_tensor(model_sampling.sigma_min), torch.as_tensor(model_sampling.sigma_max)])
    # They may still be on the host, with the model half loaded; a CPU would read what has not come yet.
    ends = ends.to(now.device, non_blocking=now.device.type != "cpu")
    low, high = model_sampling.timestep(ends.float()).to(now.dtype).unbind()
    low = low.clamp(max=0)
    return ((now - low) / (high - low)).clamp(0, 1)


def _compiled(root: torch.nn.Module) -> bool:
    return any(type(module).__name__ == "OptimizedModule" for module in root.modules())


def _transformer_options(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The options of a model call, given by name or as its last argument; a ControlNet's output is a dict as well."""
    return kwargs.get("transformer_options") or next((arg for arg in reversed(args) if isinstance(arg, dict)), {})
