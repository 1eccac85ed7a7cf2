"""The two sampling wrappers: a session around each sampling, an observation around each model call.

Life of the state: the patch on the model holds settings only; a :class:`Session` lives for one sampling and
is bound into that sampling's own copy of the model options; the file is the only thing that survives.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP

from ..calibration import (
    DEFAULT_DETAIL,
    Calibration,
    CalibrationError,
    Collector,
    linear_layers,
    load,
    mismatches,
    save,
)
from ..calibration.errors import StudioError
from ..converters.sensitivity import keep_beside
from . import host
from .probing import Probing, kept
from .texts import after_sampling, during_sampling
from .weights import adaptation, original_samples

KEY = "nvfp4_studio"
COMPILE_KEY = "torch.compile"
UNCONDITIONAL = ("negative", "empty_negative_prompt")
"""What guiders call the prompts whose passes are unconditional; the others are conditional."""
STATUS_SECONDS = 0.5


class CalibrationPatch:
    """What NVFP4Calibrate adds to a model as its OUTER_SAMPLE wrapper.

    ``path`` is the calibration file, ``restart`` starts it anew at the first sampling of each prompt,
    ``show`` takes status texts, ``tell`` counts for whoever draws them, ``detail`` is the level and ``influence``
    says whether layers are probed. Two things are remembered from sampling to sampling, because the node's output stays
    in ComfyUI's cache and serves many prompts: the prompt for which the file was already started anew, and the model's
    fingerprint.
    """

    def __init__(
        self,
        path: Path,
        *,
        restart: bool,
        show: Callable[[str], None],
        detail: str = DEFAULT_DETAIL,
        influence: bool = False,
        tell: Callable[[dict[str, Any]], None] = lambda counts: None,
    ) -> None:
        self._path = path
        self._restart = restart
        self._show = show
        self._tell = tell
        self._detail = detail
        self._influence = influence
        self._restarted_for = ""
        self._fingerprint: tuple[weakref.ref[Any], dict[str, torch.Tensor]] | None = None

    def __call__(self, executor: Any, noise: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Sample as without this wrapper; then add what was seen to the file, also after an error or a cancel."""
        guider = executor.class_obj
        prompt = host.current_prompt() or "outside of the queue"
        anew = self._restart and self._restarted_for != prompt
        before = None if anew else _stored(self._path)
        samples = self._samples(guider.model_patcher)
        if before is not None:
            check_same_model(before, guider.model_patcher.model.diffusion_model, self._path, samples)
        probing = Probing(self._path, noise, anew=before is None) if self._influence else None
        session = Session(self._shown_while(before), self._detail, samples, adaptation(guider.model_patcher), probing)
        completed = False
        try:
            with session.attached(guider):
                result = executor(noise, *args, **kwargs)
            completed = True
            return result
        finally:
            if self._finish(session, int(noise.shape[0]), anew=anew, completed=completed):
                self._restarted_for = prompt

    def _shown_while(self, before: Calibration | None) -> Callable[[int], None]:
        """What a sampling calls with the number of its model calls so far, now and then."""
        samplings, steps = (before.samplings, before.steps) if before is not None else (0, 0)

        def show(calls: int) -> None:
            self._show(during_sampling(calls, before))
            self._tell({"running": True, "samplings": samplings, "calls": steps + calls, "calls_now": calls})

        return show

    def _samples(self, patcher: Any) -> dict[str, torch.Tensor]:
        """The fingerprint of the model's own weights, looked at once per model."""
        if self._fingerprint is None or self._fingerprint[0]() is not patcher.model:
            layers, _ = linear_layers(patcher.model.diffusion_model)
            self._fingerprint = (weakref.ref(patcher.model), original_samples(patcher, layers))
        return self._fingerprint[1]

    def _finish(self, session: Session, images: int, *, anew: bool, completed: bool) -> bool:
        """Save, and tell whether there was something to save.

        A failure here becomes the sampling's error only when the sampling itself went well: raised while an
        interrupt or another error is on its way it would take that one's place.
        """
        try:
            seen = session.finish(images if completed else 0)
            if seen is None:
                return False
            stored = None if anew else _stored(self._path)
            total = seen if stored is None else stored.merged(seen)
            is_new = not self._path.exists()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            save(total, self._path)
            probed = session.probing.finish() if session.probing is not None else None
            if anew and not probed:
                keep_beside({}, self._path)  # what lies there is that of the calibration before
            hindered = session.probing is not None and session.probing.hindered
        except (StudioError, OSError) as error:
            if completed:
                raise
            host.log.warning("The statistics of the interrupted sampling are lost: %s", error)
            return False
        if is_new:
            host.refresh_lists()
        text = after_sampling(
            total,
            self._path.stem,
            completed=completed,
            compiled=session.compiled,
            probed=probed,
            hindered=hindered,
        )
        self._show(text)
        counts = {"samplings": total.samplings, "images": total.images, "calls": total.steps}
        self._tell({"running": False, **counts, "enough": total.convergence().enough})
        if seen.nonfinite_layers():
            host.log.warning("NaN or infinite inputs, left out: %s", ", ".join(seen.nonfinite_layers()))
        return True


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
        return self._collector.finish(images, self._adapted) if self._collector is not None else None

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


def noise_level(model_sampling: Any, sigmas: torch.Tensor) -> torch.Tensor:
    """Where in the schedule a call stands: 0 without noise, 1 at the start; a tensor of one element, no sync.

    timestep(sigma) / timestep(sigma_max), the scale that the model itself sees. EDM's timesteps go below zero
    (a quarter of log sigma): there the range begins at timestep(sigma_min) instead of 0.
    """
    now = model_sampling.timestep(sigmas.flatten()[:1].float())
    ends = torch.stack([torch.as_tensor(model_sampling.sigma_min), torch.as_tensor(model_sampling.sigma_max)])
    low, high = model_sampling.timestep(ends.to(now.device).float()).to(now.dtype).unbind()
    low = low.clamp(max=0)
    return ((now - low) / (high - low)).clamp(0, 1)


def check_same_model(
    calibration: Calibration, root: torch.nn.Module, path: Path, samples: dict[str, torch.Tensor]
) -> None:
    """Refuse to add a model's statistics to those of another one; names the first difference.

    ``samples`` are the model's fingerprint: another checkpoint of the same shapes is another model.
    """
    found, left_out = linear_layers(root)
    shapes = {name: (module.out_features, module.in_features) for name, module in found.items()}
    stored = set(calibration.layers) | set(calibration.unobserved)
    differences = [
        *mismatches(calibration, shapes, samples),
        *(f"{name} is not in this model" for name in sorted(set(calibration.unobserved) - set(found) - set(left_out))),
        # An imported calibration holds the layers that its author converted; one made here knows them all.
        *(f"{name} is not in the calibration" for name in sorted(set(found) - stored) if calibration.samplings),
    ]
    if differences:
        raise CalibrationError(
            f"The calibration {path.stem!r} is of another model: {differences[0]} ({len(differences)} differences in "
            "all). Give this model a calibration name of its own, or choose restart."
        )


def add_calibration(model: Any, patch: CalibrationPatch) -> Any:
    """A clone of a ModelPatcher that calibrates whenever it is sampled."""
    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, patch)
    return clone


def _stored(path: Path) -> Calibration | None:
    return load(path) if path.exists() else None


def _compiled(root: torch.nn.Module) -> bool:
    return any(type(module).__name__ == "OptimizedModule" for module in root.modules())


def _transformer_options(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The options of a model call, given by name or as its last argument; a ControlNet's output is a dict as well."""
    return kwargs.get("transformer_options") or next((arg for arg in reversed(args) if isinstance(arg, dict)), {})
