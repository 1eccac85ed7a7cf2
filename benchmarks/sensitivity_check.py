"""Does the error of a layer's own output predict what the layer does to the model, on two trained models?

    python benchmarks/sensitivity_check.py [--models flux sd3] [--rounding nearest] [--json FILE]

Each layer alone becomes NVFP4, with its input quantized as stock ComfyUI does. The error that this makes of the velocity
along a sampling, and of the picture at its end, is compared with the layer's predicted share: from its own output on
held-out rows, with each weighting, without and with measured influence. Printed are Spearman's rank correlations over
layers and the sums over all layers. One thread; about four minutes of CPU time.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from quality.pictures import calibrate
from torch import Tensor, nn

from nvfp4_studio.converters import Options, open_source
from nvfp4_studio.converters.kernels import DEFAULT_TABLE, load_table
from nvfp4_studio.converters.planning.decide import context_of
from nvfp4_studio.converters.sensitivity import WEIGHTINGS, Choice, Prober, Sensitivity, decibels, measure_sensitivity
from nvfp4_studio.converters.sensitivity.one_layer import Bench
from nvfp4_studio.demo.conditioning import CLASSES, class_conditioning
from nvfp4_studio.demo.data import unfold
from nvfp4_studio.demo.runtime import Linear, load_model
from nvfp4_studio.demo.sampling import STEPS, schedule, start_noise
from nvfp4_studio.demo.train import CHECKPOINTS

CALIBRATION_SEEDS = range(4)
PROBED_SEED, SEEDS = 50, range(100, 102)
PROBED_STEPS = 5


class Trajectory:
    """One digit of each class and seed, walked by the source: where it was and what it said there."""

    def __init__(self, model: nn.Module, seeds: Sequence[int]):
        labels = [label for _ in seeds for label in range(CLASSES)]
        self._seeds = [seed for seed in seeds for _ in range(CLASSES)]
        self._conditioning = class_conditioning(labels)
        self._sigmas = schedule(STEPS, model.shift)
        self.points: list[Tensor] = []
        self.end = self._walk(model, self.points)

    def _walk(self, model: nn.Module, points: list[Tensor] | None = None) -> Tensor:
        x = start_noise(self._seeds)
        for step in range(STEPS):
            if points is not None:
                points.append(x)
            x = x + (self._sigmas[step + 1] - self._sigmas[step]) * self._velocity(model, x, step)
        return x

    def _velocity(self, model: nn.Module, x: Tensor, step: int) -> Tensor:
        with torch.inference_mode():
            return model(x, self._sigmas[step].expand(len(x)), *self._conditioning)

    def velocities(self, model: nn.Module, every: int = 1) -> Tensor:
        """At the source's own points, every so many steps."""
        return torch.stack([self._velocity(model, self.points[step], step) for step in range(0, STEPS, every)])

    def picture_error(self, model: nn.Module) -> float:
        """Mean squared error of the pictures at the end, ink 0..1."""
        return float((unfold(self._walk(model).clone()) - unfold(self.end.clone())).square().mean())


@contextmanager
def computed_as(module: Linear, bench: Bench, name: str) -> Iterator[None]:
    """One layer of the model as it would be written and computed by the bench's only choice."""
    layer = next(found for found in bench.context.recognised.layers.values() if bench.context.module(found) == name)
    computed = bench.computed(layer, bench.choices[0])
    before, module.weight = module.weight, computed.weight(0, layer.shape[0]).clone()

    def round_input(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = arguments[0]
        return (computed.input(x.reshape(-1, x.shape[-1])).reshape(x.shape),)

    handle = module.register_forward_pre_hook(round_input)
    try:
        yield
    finally:
        handle.remove()
        module.weight = before


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's, for values without ties."""
    ranks = [torch.tensor(values, dtype=torch.float64).argsort().argsort().double() for values in (one, other)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def check(path: Path, rounding: str) -> dict[str, Any]:
    """Everything that is printed about one model."""
    calibration = calibrate(path, CALIBRATION_SEEDS, "curvature")
    model = load_model(path)
    modules = {name: module for name, module in model.named_modules() if isinstance(module, Linear)}
    walked = Trajectory(model, SEEDS)
    reference = walked.velocities(model)
    choice = Choice("nvfp4", rounding)
    with open_source(path) as source:
        measured = {
            weighting: measure_sensitivity(source, calibration, (choice,), weighting=weighting)
            for weighting in WEIGHTINGS
        }
        influence = probed(model, modules)
        bench = Bench(
            context=context_of(source, Options(), calibration),
            calibration=calibration,
            choices=(choice,),
            weighting="uniform",
            kernels=load_table(DEFAULT_TABLE),
            device=torch.device("cpu"),
            types={},
            check=lambda: None,
        )
        truth = {}
        for layer in measured["uniform"].layers:
            if layer.of_policy("nvfp4"):
                with computed_as(modules[layer.module], bench, layer.module):
                    noise = (walked.velocities(model) - reference).square().sum() / reference.square().sum()
                    truth[layer.module] = float(noise), walked.picture_error(model)
    return {"layers": rows(measured["uniform"], influence, truth), "table": table(measured, influence, truth)}


def probed(model: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, float]:
    """The influence of each layer, at a few points of another seed's sampling."""
    walked = Trajectory(model, [PROBED_SEED])
    evaluate: Callable[[], Tensor] = lambda: walked.velocities(model, STEPS // PROBED_STEPS)  # noqa: E731
    prober, reference = Prober(modules), evaluate()
    for name in modules:
        prober.probe(name, reference, evaluate)
    return {name: found.influence for name, found in prober.probes.items()}


def rows(
    measured: Sensitivity, influence: Mapping[str, float], truth: Mapping[str, tuple[float, float]]
) -> list[dict[str, Any]]:
    """Layer by layer in dB: own error, influence, predicted and true error of the velocity, true error of the picture."""
    found = []
    for layer in measured.layers:
        if layer.module in truth:
            share = layer.share(layer.of_policy("nvfp4")[0])
            values = (share, influence[layer.module], share * influence[layer.module], *truth[layer.module])
            names = ("own", "influence", "predicted", "velocity", "picture")
            found.append(
                {"layer": layer.module, **dict(zip(names, (-decibels(value) for value in values), strict=True))}
            )
    return found


def table(
    measured: Mapping[str, Sensitivity], influence: Mapping[str, float], truth: Mapping[str, tuple[float, float]]
) -> list[dict[str, Any]]:
    """For each definition of a share: rank correlations with velocity and picture, predicted sum, true sum."""
    found = []
    velocity, picture = ([pair[place] for pair in truth.values()] for place in (0, 1))
    for weighting, sensitivity in measured.items():
        for known in (False, True):
            layers = [
                replace(layer, influence=influence[layer.module] if known else 1.0)
                for layer in sensitivity.layers
                if layer.module in truth
            ]
            shares = [layer.share(layer.of_policy("nvfp4")[0]) for layer in layers]
            found.append(
                {
                    "weighting": weighting,
                    "influence": known,
                    "velocity": rank_correlation(shares, velocity),
                    "picture": rank_correlation(shares, picture),
                    "predicted_db": decibels(math.fsum(shares)),
                    "true_db": decibels(math.fsum(velocity)),
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=CHECKPOINTS, default=list(CHECKPOINTS))
    parser.add_argument("--rounding", default="nearest")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = {}
    for name in arguments.models:
        result[name] = check(CHECKPOINTS[name], arguments.rounding)
        print(f"{name}: {len(result[name]['layers'])} layers, each alone in NVFP4 ({arguments.rounding})")
        print(f"{'weighting':<10} {'influence':<10} {'ρ velocity':>10} {'ρ picture':>10} {'sum dB':>8} {'true dB':>8}")
        for row in result[name]["table"]:
            print(
                f"{row['weighting']:<10} {'measured' if row['influence'] else '1':<10} {row['velocity']:>10.2f} "
                f"{row['picture']:>10.2f} {row['predicted_db']:>8.1f} {row['true_db']:>8.1f}"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
