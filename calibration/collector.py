"""Collects statistics from the modules that really run, and leaves nothing behind on them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from .errors import CalibrationError
from .observers import LayerObserver, observe
from .selection import features, linear_layers
from .shared_inputs import SharedInputs
from .statistics import SCHEDULE_BINS, Calibration, LayerStatistics

NEVER_RAN = "never ran while sampling, or ran in a fused path that does not call it"
UNMEASURABLE = "was only given inputs that cannot be measured (no tensor of floats)"

_Hook = Callable[..., None]


class Collector:
    """One sampling's statistics of the Linear layers below `root`, the diffusion model itself.

    >>> collector = Collector(diffusion_model)
    >>> with collector.observing(noise_level=0.8):
    ...     diffusion_model(x, timestep, context)
    >>> calibration = collector.finish(images=1)

    May be used from several threads on several devices at once: hooks act only in the thread that entered
    `observing`, and sums are kept per device and layer. Memory is O(layers), whatever is observed.
    """

    def __init__(self, root: nn.Module) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._threads: set[int] = set()
        self._observers: dict[tuple[torch.device, str], LayerObserver] = {}
        self._shapes: dict[str, tuple[int, int]] = {}
        self._left_out: dict[str, str] = {}
        self._unmeasured: set[str] = set()
        self._schedule: dict[torch.device, torch.Tensor] = {}
        self._steps = 0
        self._modules_of(root)

    @contextmanager
    def observing(self, noise_level: float | torch.Tensor, root: nn.Module | None = None) -> Iterator[None]:
        """Observe one evaluation of the model: hooks are added now and removed on leaving, come what may.

        noise_level: 0 (clean) .. 1 (full noise), a number or a tensor of any shape on any device, of which
        the largest value counts; it is never read back. Levels outside are clamped, NaN counts as 0.
        root: the module tree that really runs, when it is a copy of the collector's on another device.
        Raises CalibrationError when this thread is already observing with this collector.
        """
        thread = threading.get_ident()
        with self._lock:
            if thread in self._threads:
                raise CalibrationError("This calibration is already observing an evaluation of the model.")
            self._threads.add(thread)
        try:
            with ExitStack() as installed:
                evaluation = _Evaluation(noise_level)
                for name, module in self._modules_of(self._root if root is None else root).items():
                    # Last in line: earlier hooks may still replace the input that the layer will get.
                    hook = self._hook(name, thread, evaluation)
                    installed.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
                with self._lock:
                    self._steps += 1
                    self._count_step(evaluation)
                yield
        finally:
            with self._lock:
                self._threads.discard(thread)

    def finish(self, images: int = 0) -> Calibration:
        """The statistics so far, on the host. `images`: how many images this sampling made.

        This is the only place that waits for the devices. A sampling without any evaluation counts as none.
        """
        with self._lock, torch.inference_mode(False), torch.no_grad():
            layers: dict[str, LayerStatistics] = {}
            for (_, name), observer in self._observers.items():
                found = observer.finish(*self._shapes[name])
                layers[name] = layers[name].merged(found) if name in layers else found
            unobserved = {**dict.fromkeys(self._shapes, NEVER_RAN), **dict.fromkeys(self._unmeasured, UNMEASURABLE)}
            unobserved.update(self._left_out)
            schedule = torch.zeros(SCHEDULE_BINS, dtype=torch.int64)
            for counts in self._schedule.values():
                schedule += counts.cpu()
            return Calibration(
                layers=dict(sorted(layers.items())),
                unobserved={name: unobserved[name] for name in sorted(unobserved) if name not in layers},
                samplings=int(self._steps > 0),
                images=images,
                steps=self._steps,
                schedule=schedule,
            )

    def _modules_of(self, root: nn.Module) -> dict[str, nn.Module]:
        modules, left_out = linear_layers(root)
        with self._lock:
            for name, module in modules.items():
                shape = features(module)
                assert shape is not None
                if self._shapes.setdefault(name, shape) != shape:
                    raise CalibrationError(
                        f"Layer {name} had shape {self._shapes[name]} and now has {shape}: another model is running."
                    )
            self._left_out.update(left_out)
        return modules

    def _count_step(self, evaluation: _Evaluation) -> None:
        device = evaluation.device
        if device not in self._schedule:
            with torch.inference_mode(False):
                self._schedule[device] = torch.zeros(SCHEDULE_BINS, dtype=torch.int64, device=device)
        self._schedule[device].add_(evaluation.bin_on(device))

    def _hook(self, name: str, thread: int, evaluation: _Evaluation) -> _Hook:
        # kwargs has a default because torch leaves it out of the call when another thread adds or removes
        # the hook at that moment; then the call is not this thread's, and is none of ours.
        def before_forward(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
            if threading.get_ident() != thread:
                return
            values = args[0] if args else (kwargs or {}).get("input")
            if isinstance(values, torch.Tensor):
                self._observe(name, values, evaluation)
            else:
                self._unmeasured.add(name)

        return before_forward

    @torch.no_grad()
    def _observe(self, name: str, values: torch.Tensor, evaluation: _Evaluation) -> None:
        known, seen = evaluation.shared.find(values, name)
        if not known:
            seen = observe(_plain(values))
            evaluation.shared.remember(values, name, seen)
        if seen is None:
            self._unmeasured.add(name)
            return
        device = seen.counts.device
        schedule_bin = evaluation.bin_on(device)
        with self._lock:
            key = (device, name)
            if key not in self._observers:
                self._observers[key] = LayerObserver(device)
            self._observers[key].observe(seen, schedule_bin)


class _Evaluation:
    """One evaluation of the model: its noise level on each device, and the inputs measured so far."""

    def __init__(self, noise_level: float | torch.Tensor) -> None:
        self.shared = SharedInputs()
        with torch.no_grad():
            level = torch.as_tensor(noise_level).detach()
            highest = level.to(torch.float32).amax() if level.numel() else torch.zeros((), device=level.device)
            number = (torch.nan_to_num(highest, nan=0.0) * SCHEDULE_BINS).clamp(0, SCHEDULE_BINS - 1).to(torch.int64)
            here = torch.arange(SCHEDULE_BINS, device=level.device) == number
        self.device = here.device
        self._bins = {here.device: here}

    def bin_on(self, device: torch.device) -> torch.Tensor:
        """bool [16] on `device`, true in the bin of the evaluation's noise level."""
        if device not in self._bins:
            self._bins[device] = self._bins[self.device].to(device, non_blocking=True)
        return self._bins[device]


def _plain(values: torch.Tensor) -> torch.Tensor:
    """The floats of an input: a quantized tensor is given as what it stands for."""
    if type(values).dequantize is not torch.Tensor.dequantize:
        plain: torch.Tensor = values.dequantize()
        return plain
    return values
