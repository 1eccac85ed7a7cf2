"""What each policy would do to a layer: its range, what it clips, what it loses, how close the input stays."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import CalibrationError
from .prediction import block_model
from .scales import POLICIES, activation_range, input_scale
from .statistics import LayerStatistics


@dataclass(frozen=True)
class PolicyEffect:
    """One policy applied to one layer's input in NVFP4.

    amax: the range, None = dynamic. input_scale: what is stored for it, in NVFP4. clip_rate: share 0..1 of elements above it. lost_rate: share of blocks of
    16 channels that would become zero. sqnr_db: predicted SQNR of the input (see prediction.py). The rates
    and the SQNR are None where the histograms to tell them are missing. guarded, note: as in ActivationRange.
    """

    amax: float | None
    input_scale: float | None
    clip_rate: float | None
    lost_rate: float | None
    sqnr_db: float | None
    guarded: bool
    note: str


def effects(stats: LayerStatistics, name: str) -> dict[str, PolicyEffect | None]:
    """Each of POLICIES on one layer; None for a policy that needs statistics which the layer has not."""
    model = block_model(stats)
    found: dict[str, PolicyEffect | None] = {}
    for policy in POLICIES:
        try:
            chosen = activation_range(stats, policy, name)
        except CalibrationError:
            found[policy] = None
            continue
        lost, sqnr = (model.lost(chosen.amax), model.sqnr_db(chosen.amax)) if model else (None, None)
        scale = input_scale(chosen.amax, "nvfp4") if chosen.amax else None
        found[policy] = PolicyEffect(chosen.amax, scale, chosen.clip_rate, lost, sqnr, chosen.guarded, chosen.note)
    return found
