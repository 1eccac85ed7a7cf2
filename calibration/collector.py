"""Collects statistics from the modules that really run, and leaves nothing behind on them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from .convergence import FOLDS, fold_of
from .coverage import SCHEDULE_BINS
from .detail import CHANNELS, CURVATURE, DEFAULT_DETAIL, SCALES, checked
from .errors import CalibrationError
from .evaluation import Evaluation
from .fingerprint import UNKNOWN, weight_samples
from .observers import Observation, observe
from .prompts import prompt_of
from .selection import features, linear_layers
from .statistics import PASSES, Calibration, LayerStatistics
from .sums import DeviceSums

NEVER_RAN = "never ran while sampling, or ran in a fused path that does not call it"
UNMEASURABLE = "was only given inputs that cannot be measured (no tensor of floats)"
NO_ROWS = "was only given inputs without a row, as an expert is that no token chose"
NOT_ADAPTED = "none"
_MOST_SETS = 4
"""Sets of layers with equal inputs, per layer, from which on layers are summed one by one."""

_TOGETHER = {SCALES: 64, CHANNELS: 64, CURVATURE: 1}
"""Observations summed in a row; those of the curvature are megabytes each and do not wait."""

_Hook = Callable[..., None]


class Collector:
    """One sampling's statistics of the Linear layers below `root`, the diffusion model itself.

    >>> collector = Collector(diffusion_model, detail="channels")
    >>> with collector.observing(noise_level=0.8, passes=(0, 1)):
    ...     diffusion_model(x, timestep, context)
    >>> calibration = collector.finish(images=1)

    detail: one of DETAILS. samples: the layers' fingerprints by name; by default the weights of `root` are
    looked at, which are the wrong ones when something has been merged into them.

    What is measured is the input that a layer is given. In a layer with a `pre_quant_scale` that is the input
    before the multiplication, so that such a model's statistics serve its original as well.

    May be used from several threads on several devices at once: hooks act only in the thread that entered
    `observing`, and sums are kept per device. Memory is O(layers), whatever is observed.
    """

    def __init__(
        self, root: nn.Module, detail: str = DEFAULT_DETAIL, samples: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        self._root = root
        self._detail = checked(detail)
        self._lock = threading.Lock()
        self._threads: set[int] = set()
        self._sums: dict[torch.device, DeviceSums] = {}
        self._shapes: dict[str, tuple[int, int]] = {}
        self._left_out: dict[str, str] = {}
        self._unmeasured: dict[str, str] = {}
        self._schedule: dict[torch.device, torch.Tensor] = {}
        self._sets: set[tuple[str, ...]] = set()
        self._modules: dict[int, tuple[nn.Module, list[tuple[str, nn.Module]]]] = {}
        self._steps = 0
        known = dict(self._modules_of(root))
        self._samples = dict(samples) if samples is not None else weight_samples(known)

    @contextmanager
    def observing(
        self, noise_level: float | torch.Tensor, root: nn.Module | None = None, passes: Sequence[int] = (0,)
    ) -> Iterator[None]:
        """Observe one evaluation of the model: hooks are added now and removed on leaving, come what may.

        An evaluation in which no layer ran, as of a step that a cache node skips, is not counted.

        noise_level: 0 (clean) .. 1 (full noise), a number or a tensor of any shape on any device, of which
        the largest value counts; it is never read back. Levels outside are clamped, NaN counts as 0.
        root: the module tree that really runs, when it is a copy of the collector's on another device. Its
        layers are looked up at its first evaluation.
        passes: what the equal parts of the batch are, in order: 0 conditional, anything else unconditional.
        Raises CalibrationError when this thread is already observing with this collector.
        """
        thread = threading.get_ident()
        with self._lock:
            if thread in self._threads:
                raise CalibrationError("This calibration is already observing an evaluation of the model.")
            self._threads.add(thread)
        try:
            modules = self._modules_of(self._root if root is None else root)
            evaluation = Evaluation(noise_level, passes, self._steps, _TOGETHER[self._detail])
            with ExitStack() as installed:
                installed.callback(self._close, evaluation)
                for name, module in modules:
                    # Last in line: earlier hooks may still replace the input that the layer will get.
                    hook = self._hook(name, thread, evaluation)
                    installed.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
                yield
        finally:
            with self._lock:
                self._threads.discard(thread)

    def finish(self, images: int = 0, adaptation: str = NOT_ADAPTED, prompt: int | None = None) -> Calibration:
        """The statistics so far, on the host.

        images: how many images this sampling made. adaptation: what was patched into the weights, in words.
        prompt: the digest of what it was conditioned on (see prompts.py), None when unknown.
        This is the only place that waits for the devices. A sampling without any evaluation counts as none; a
        layer whose sums of squares left the range that can be kept has no channels.
        """
        with self._lock, torch.inference_mode(False), torch.no_grad():
            layers: dict[str, LayerStatistics] = {}
            for sums in self._sums.values():
                for names, found in sums.finish().items():
                    for name in names:
                        mine = replace(found, out_features=self._shapes[name][1])
                        layers[name] = layers[name].merged(mine) if name in layers else mine
            unobserved = {**dict.fromkeys(self._shapes, NEVER_RAN), **self._unmeasured}
            unobserved.update(self._left_out)
            schedule = torch.zeros(len(PASSES), SCHEDULE_BINS, dtype=torch.int64)
            for counts in self._schedule.values():
                schedule += counts.cpu()
            ran = int(self._steps > 0)
            fold_samplings = torch.zeros(FOLDS, dtype=torch.int64)
            fold = self._fold(layers, schedule)
            fold_samplings[fold] = ran
            return Calibration(
                layers={name: self._described(name, layer, fold) for name, layer in sorted(layers.items())},
                unobserved={name: unobserved[name] for name in sorted(unobserved) if name not in layers},
                samplings=ran,
                images=images,
                steps=self._steps,
                schedule=schedule,
                fold_samplings=fold_samplings,
                adaptations={adaptation: 1} if ran else {},
                prompts=prompt_of(prompt if ran else None),
            )

    def _fold(self, layers: Mapping[str, LayerStatistics], schedule: torch.Tensor) -> int:
        measured = [("", schedule)]
        for name, layer in sorted(layers.items()):
            measured += [(name, layer.schedule_amax), (name, layer.block_amax)]
        return fold_of(measured)

    def _described(self, name: str, layer: LayerStatistics, fold: int) -> LayerStatistics:
        fold_amax = torch.zeros(FOLDS, dtype=torch.float32)
        fold_amax[fold] = layer.amax
        return replace(layer, fold_amax=fold_amax, weight_samples=self._samples.get(name, UNKNOWN))

    def _modules_of(self, root: nn.Module) -> list[tuple[str, nn.Module]]:
        if id(root) in self._modules:
            return self._modules[id(root)][1]
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
            self._modules[id(root)] = (root, list(modules.items()))
        return self._modules[id(root)][1]

    def _count_step(self, evaluation: Evaluation) -> None:
        device = evaluation.device
        if device not in self._schedule:
            with torch.inference_mode(False):
                self._schedule[device] = torch.zeros(len(PASSES), SCHEDULE_BINS, dtype=torch.int64, device=device)
        for number in set(evaluation.passes):
            self._schedule[device][number].add_(evaluation.moment_on(device).bins)

    def _hook(self, name: str, thread: int, evaluation: Evaluation) -> _Hook:
        # kwargs has a default because torch leaves it out of the call when another thread adds or removes
        # the hook at that moment; then the call is not this thread's, and is none of ours.
        def before_forward(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
            if threading.get_ident() != thread:
                return
            evaluation.ran = True
            values = args[0] if args else (kwargs or {}).get("input")
            if isinstance(values, torch.Tensor):
                self._observe(name, values, evaluation)
            else:
                self._unmeasured[name] = UNMEASURABLE

        return before_forward

    def _observe(self, name: str, values: torch.Tensor, evaluation: Evaluation) -> None:
        shared = evaluation.shared
        entry = shared.find(values, name)
        if entry is not None:
            seen = entry.observation
        else:
            seen = observe(_plain(values), passes=len(evaluation.passes), turn=evaluation.turn, detail=self._detail)
            forgotten = shared.remember(values, name, seen)
            if forgotten:
                self._add(forgotten, evaluation)
        if seen is not None and seen.features == self._shapes[name][0]:
            seen.layers.append(name)
        else:
            self._unmeasured[name] = UNMEASURABLE if values.numel() else NO_ROWS

    def _close(self, evaluation: Evaluation) -> None:
        self._add(evaluation.shared.rest(), evaluation)
        if evaluation.ran:
            with self._lock:
                self._steps += 1
                self._count_step(evaluation)

    def _add(self, observations: Sequence[Observation], evaluation: Evaluation) -> None:
        with self._lock:
            for seen in observations:
                device, names = seen.device, tuple(seen.layers)
                if device not in self._sums:
                    self._sums[device] = DeviceSums(device, self._detail)
                sums, moment = self._sums[device], evaluation.moment_on(device)
                if names not in self._sets and len(self._sets) >= _MOST_SETS * len(self._shapes):
                    for name in names:
                        sums.add(replace(seen, layers=[name]), moment)
                elif names:
                    self._sets.add(names)
                    sums.add(seen, moment)


def _plain(values: torch.Tensor) -> torch.Tensor:
    """The floats of an input: a quantized tensor is given as what it stands for."""
    if type(values).dequantize is not torch.Tensor.dequantize:
        plain: torch.Tensor = values.dequantize()
        return plain
    return values
