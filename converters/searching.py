"""The pre_quant_scale of each NVFP4 layer, searched before a conversion is planned: a recipe with what was found."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..calibration import Calibration, LayerStatistics, StudioError
from .encode import weight_of
from .errors import Cancelled
from .formats import nvfp4
from .held_out import search_pre_quant
from .memory import memory_for
from .options import Options
from .pins import MAX_REASON, Pin
from .pipeline import Progress, default_workers, never, no_progress, one_thread, ordered
from .plan import LayerDecision, Plan
from .planning.decide import context_of, make_plan
from .recipe import with_pins
from .rounding import SEARCH, pre_quant
from .sensitivity.document import Reader
from .sensitivity.identity import calibration_fingerprint, digest_of, source_fingerprint
from .sensitivity.progress_file import ProgressFile
from .source import Source


@dataclass(frozen=True)
class Searched:
    """One layer: the exponent, 0 for none, and in a few words what was found."""

    module: str
    exponent: float
    found: str


@contextlib.contextmanager
def with_pre_quant(
    source: Source,
    options: Options,
    calibration: Calibration | None,
    *,
    device: torch.device,
    workers: int | None = None,
    unfinished: Path | None = None,
    planned: Callable[[Plan], None] = lambda plan: None,
    progress: Progress = no_progress,
    cancelled: Callable[[], bool] = never,
) -> Iterator[Options]:
    """The options with a recipe that pins what a search found, where they ask for one; the very same where they do not.

    Every layer that the plan makes NVFP4 is rounded as it would be written, without a pre_quant_scale and with each of
    ``pre_quant.EXPONENTS``, unless it is pinned to an exponent already. The result depends neither on the number of
    threads nor on kills in between.

    Args:
        source: an open checkpoint.
        device: where weights are rounded.
        workers: threads; None for one a core, at most 4, and one on a GPU.
        unfinished: where layers that were searched are kept while the block runs. A process that is killed and an
            error in the block leave it behind, and the next call with the same arguments goes on; success, a cancel
            and an interrupt remove it.
        planned: told the plan before the search, of the same size but for the pre_quant_scales; may raise.
        progress: called with bytes of the layers done and in all.
        cancelled: asked between pieces; True raises ``Cancelled``.

    Raises:
        PlanError: see ``make_plan``; no calibration, or one that kept no input rows.
        SensitivityError: another process holds ``unfinished``.
    """
    if options.pre_quant != SEARCH:
        yield options
        return
    recipe = context_of(source, options, calibration).recipe
    plan = make_plan(source, options, calibration)
    planned(plan)
    layers = [
        layer
        for layer in plan.layers
        if layer.component == "diffusion_model"
        and (layer.action, layer.format) == ("quantize", nvfp4.NAME)
        and layer.pre_quant_exponent is None
    ]
    assert calibration is not None, "make_plan refuses a search without one"
    seen = calibration.layers

    def check() -> None:
        if cancelled():
            raise Cancelled("Cancelled; nothing was written.")

    def examine(layer: LayerDecision) -> Searched:
        known = kept.finished.get(layer.module)
        return known or _searched(source, layer, seen.get(layer.module), options.input_scale, device, check)

    asked = {
        "source": source_fingerprint(source),
        "calibration": calibration_fingerprint(calibration),
        "input_scale": options.input_scale,
        "layers": [[layer.module, layer.rounding] for layer in layers],
        "exponents": pre_quant.EXPONENTS,
        "device": device.type,
    }
    done, whole = 0, sum(layer.bytes_before for layer in layers)
    pins: dict[str, Pin] = {}
    from_json = partial(_from_json, Reader(str(unfinished)))
    failed = False
    with ProgressFile(unfinished, digest_of(asked), asdict, from_json) as kept, one_thread():
        try:
            threads = (workers or default_workers()) if device.type == "cpu" else 1
            for layer, result in ordered(examine, layers, threads):
                if result.module not in kept.finished:
                    kept.add(result)
                pins[layer.module] = _pinned(recipe.layers.get(layer.module), layer, result)
                done += layer.bytes_before
                progress(done, whole, f"searching pre_quant_scale of {layer.module}")
                check()
            name = f"{recipe.name} with pre_quant_scale"
            title = f"{recipe.title.rstrip('.')}; each layer with the pre_quant_scale that brings its outputs closest."
            yield replace(options, recipe=with_pins(recipe, pins, name=name, title=title))
        except (StudioError, OSError, MemoryError, RuntimeError) as error:
            failed = not isinstance(error, Cancelled)
            raise
        finally:
            if not (failed and pins):
                kept.remove()


def _pinned(pin: Pin | None, layer: LayerDecision, result: Searched) -> Pin:
    rule = layer.reason.partition("; pre_quant_scale: ")[0]  # of a recipe that a search made
    reason = f"{rule}; pre_quant_scale: {result.found}"[:MAX_REASON]
    return replace(pin or Pin(nvfp4.NAME), pre_quant_exponent=result.exponent or None, reason=reason)


def _searched(
    source: Source,
    layer: LayerDecision,
    statistics: LayerStatistics | None,
    input_policy: str,
    device: torch.device,
    check: Callable[[], None],
) -> Searched:
    lacking = pre_quant.missing(statistics)
    if lacking is None and (statistics is None or statistics.reservoir is None or not len(statistics.reservoir.hashes)):
        lacking = "no rows of its input were kept while calibrating"
    if lacking is not None or statistics is None:
        return Searched(layer.module, 0.0, f"none, {lacking}")
    check()
    name = f"{layer.source_name}.weight"
    with memory_for(name):
        weight = weight_of(source, layer, source.read(name))
        found = search_pre_quant(
            weight, statistics, layer.rounding, input_policy=input_policy, device=device, check=check
        )
    if found is None:
        return Searched(layer.module, 0.0, "none brings its outputs closer")
    return Searched(
        layer.module, found.exponent, f"exponent {found.exponent:g}, outputs {found.closer_db:.1f} dB closer"
    )


def _from_json(reader: Reader, data: Any) -> Searched:
    data = reader.of(data, dict, "a layer")
    module = reader.text(data.get("module"), "module")
    exponent = reader.number(data.get("exponent"), f"exponent of {module}", most=1)
    return Searched(module, exponent, reader.text(data.get("found"), f"what was found of {module}"))
