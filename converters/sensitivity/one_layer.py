"""One layer in every format that it can have: encoded as it would be written, computed as ComfyUI would."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ...calibration import Calibration, LayerStatistics
from ...calibration.kinds import NUMBER
from ..encode import encode, weight_in
from ..formats import FORMATS, Weight, nvfp4
from ..kernels import KernelTable, kernel_of, layer_seconds
from ..layers import SourceLayer
from ..pins import Pin
from ..plan import LayerDecision
from ..planning.context import Context
from ..planning.decided import stored_bytes
from ..planning.layer_rules import decide_layer
from ..planning.obstacles import already, many_scales, obstacle
from ..rounding import AUTO, pre_quant, rounding_for
from ..stored import Encoded
from .outputs import Computed, output_error, outputs
from .values import KEEP, Choice, LayerSensitivity, Outcome
from .weighting import row_weights

NO_ROWS = "no rows of its input were kept while calibrating"


@dataclass(frozen=True)
class Bench:
    """What all layers of one measurement share. ``types``: the kind of each module. ``check`` may raise to cancel."""

    context: Context
    calibration: Calibration
    choices: Sequence[Choice]
    weighting: str
    kernels: KernelTable
    device: torch.device
    types: Mapping[str, str]
    check: Callable[[], None]

    def decision(self, layer: SourceLayer, choice: Choice) -> LayerDecision:
        """What a plan would make of a layer that is pinned to this choice."""
        pin = Pin(choice.policy, choice.rounding, choice.pre_quant_exponent, choice.gain)
        recipe = replace(self.context.recipe, layers={self.context.module(layer): pin})
        return decide_layer(replace(self.context, recipe=recipe), layer)

    def possible(self, layer: SourceLayer) -> tuple[list[Choice], str]:
        """The choices that a layer has beside ``keep``, and why it has none, "" when it has."""
        if not (layer.is_fp8 or layer.is_plain):
            return [], already(layer)
        statistics = self.context.statistics(self.context.module(layer))
        if not rows_kept(statistics):
            return [], NO_ROWS
        found, hindrance = [], ""
        for choice in self.choices:
            if choice.policy == KEEP:
                continue
            why = obstacle(self.context, layer, choice.policy) or _lacking(choice, statistics)
            if why is None:
                found.append(choice)
            hindrance = hindrance or why or ""
        return found, "" if found else hindrance or "no other format was asked for"

    def measure(self, layer: SourceLayer) -> LayerSensitivity:
        """Every choice of one layer, the weight read once."""
        module = self.context.module(layer)
        statistics = self.context.statistics(module)
        possible, fixed = self.possible(layer)
        if possible:
            assert statistics is not None
            signal, outcomes = self._outcomes(layer, possible, statistics)
        else:
            signal, outcomes = 0.0, [self._kept(layer, statistics)]
        kind = self.types[module]
        place = kind.split(".").index(NUMBER) + 1 if NUMBER in kind.split(".") else 0
        return LayerSensitivity(
            name=layer.name,
            module=module,
            kind=kind,
            block=".".join(module.split(".")[:place]),
            shape=layer.shape,
            rows=len(statistics.reservoir.hashes) if statistics and statistics.reservoir else 0,
            signal=signal,
            fp8_time=self._fp8_seconds(layer.shape, statistics),
            outcomes=tuple(outcomes),
            fixed=fixed,
            input_rows=self._rows_at_once(statistics),
        )

    def _kept(self, layer: SourceLayer, statistics: LayerStatistics | None) -> Outcome:
        """``keep`` of a layer that has no other choice. One that cannot stay either counts as it is, computed as FP8."""
        if many_scales(self.context, layer):
            seconds = self._fp8_seconds(layer.shape, statistics)
            return Outcome(Choice(KEEP), stored_bytes(self.context, layer), 0.0, seconds)
        kept = self.decision(layer, Choice(KEEP))
        return Outcome(Choice(KEEP), kept.bytes_after, 0.0, self._seconds(kept, statistics))

    def _outcomes(
        self, layer: SourceLayer, possible: list[Choice], statistics: LayerStatistics
    ) -> tuple[float, list[Outcome]]:
        """Signal and outcomes, ``keep`` first where the layer can stay."""
        assert statistics.reservoir is not None
        weight = weight_in(self.context.source, layer)
        values = statistics.reservoir.values().to(self.device)
        weights = row_weights(self.weighting, statistics.reservoir, self.calibration)
        reference = outputs(values.float(), weight.rows, layer.shape, self.check)
        found: dict[Choice, Outcome] = {}
        tried: set[Choice] = set()
        nearest: dict[float | None, dict[str, torch.Tensor]] = {}
        signal = 0.0
        for choice in possible if many_scales(self.context, layer) else (Choice(KEEP), *possible):
            decision = self.decision(layer, choice)
            asked = replace(choice, rounding=decision.rounding)
            if asked in tried:
                continue
            tried.add(asked)
            if choice.pre_quant_exponent not in nearest:
                nearest.clear()
            computed, taken = self._encoded(layer, decision, weight, choice, nearest)
            if taken in found:
                continue
            error = output_error(reference, computed, values, weights, self.check)
            signal = error.signal
            found[taken] = Outcome(taken, decision.bytes_after, error.noise, self._seconds(decision, statistics))
        return signal, list(found.values())

    def computed(self, layer: SourceLayer, choice: Choice) -> Computed:
        """One layer as ComfyUI would compute it, if it were written by a choice."""
        decision = self.decision(layer, choice)
        return self._encoded(layer, decision, weight_in(self.context.source, layer), choice, {})[0]

    def _encoded(
        self,
        layer: SourceLayer,
        decision: LayerDecision,
        weight: Weight,
        choice: Choice,
        nearest: dict[float | None, dict[str, torch.Tensor]],
    ) -> tuple[Computed, Choice]:
        """The same from a weight that was read, and the choice that was really taken. ``nearest``: see ``encode``."""
        tag = decision.tag or {}
        quantizes = bool(tag) and not decision.full_precision
        if decision.action == "copy":
            scale = decision.input_scale
            if scale is None and layer.input_scale is not None:
                scale = float(self.context.source.read(layer.input_scale))
            return Computed(decision.format if tag else None, tag, quantizes, scale, None, weight.rows), choice
        statistics = self.context.statistics(decision.module)
        encoded = encode(weight, decision, statistics, self.device, self.check, nearest)
        tensors = encoded.tensors
        rows = FORMATS[decision.format].decoder(Encoded(decision.name, decision.shape, tag, tensors))
        factor = tensors.get("pre_quant_scale")
        computed = Computed(decision.format, tag, quantizes, decision.input_scale, factor, rows)
        return computed, replace(choice, rounding=encoded.outcome.rounding)

    def _seconds(self, decision: LayerDecision, statistics: LayerStatistics | None) -> float:
        """Predicted time of one evaluation of the model; 0 for a layer of which nobody knows how often it runs."""
        plain = decision.tag is None or decision.full_precision
        return layer_seconds(
            self.kernels,
            kernel_of(decision.format, plain),
            decision.shape,
            self._rows_at_once(statistics),
            decision.bytes_after,
            decoded=plain and decision.format in FORMATS,
            dynamic=decision.format == nvfp4.NAME and decision.input_scale is None,
        ) * bool(self._rows_at_once(statistics))

    def _fp8_seconds(self, shape: tuple[int, int], statistics: LayerStatistics | None) -> float:
        rows = self._rows_at_once(statistics)
        return layer_seconds(self.kernels, "fp8", shape, rows, shape[0] * shape[1]) * bool(rows)

    def _rows_at_once(self, statistics: LayerStatistics | None) -> float:
        """Rows that a layer is given in one evaluation of the model, on average."""
        steps = self.calibration.steps
        return statistics.rows / steps if statistics is not None and steps else 0.0


def rows_kept(statistics: LayerStatistics | None) -> bool:
    """Whether there is something to measure a layer on."""
    return statistics is not None and statistics.reservoir is not None and len(statistics.reservoir.hashes) > 0


def _lacking(choice: Choice, statistics: LayerStatistics | None) -> str | None:
    """Why a layer was not seen enough for a choice, None when it was."""
    if choice.rounding not in ("", AUTO) and rounding_for(choice.rounding, statistics)[0] != choice.rounding:
        return rounding_for(choice.rounding, statistics)[1]
    return pre_quant.missing(statistics) if choice.pre_quant_exponent else None
