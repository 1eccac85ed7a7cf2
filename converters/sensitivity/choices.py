"""Which ways to store a layer are compared."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import PlanError
from ..formats import POLICIES, fp8, int8, mxfp8, nvfp4
from ..rounding import AUTO, METHODS, check_rounding
from .values import KEEP, Choice

DEFAULT_POLICIES = (KEEP, nvfp4.NAME, mxfp8.NAME, fp8.NAME, int8.NAME)
DEFAULT_ROUNDINGS = (AUTO, "nearest")
"""What would be taken, and what kernels do by themselves; the others are measured when asked for."""
ALL = "all"


def choices_of(
    policies: Sequence[str] = DEFAULT_POLICIES,
    roundings: Sequence[str] = DEFAULT_ROUNDINGS,
    exponents: Sequence[float] = (),
    gain: bool = False,
) -> tuple[Choice, ...]:
    """All choices of these policies, ``keep`` always among them, NVFP4 with each of the roundings.

    Args:
        policies: ``keep`` and keys of ``formats.POLICIES``, or ``all``.
        roundings: keys of ``ROUNDINGS``, or ``all`` for every method.
        exponents: each rounding also with a pre_quant_scale of each of these, from above 0 to 1.
        gain: all of that also with a gain.

    Raises:
        PlanError: one that does not exist.
    """
    known = (KEEP, *POLICIES)
    wanted = [policy for name in policies for policy in (known if name == ALL else (name,))]
    wrong = next((policy for policy in wanted if policy not in known), None)
    if wrong is not None:
        raise PlanError(f"There is no format {wrong[:40]!r}; choose among {', '.join(known)}.")
    methods = [method for name in roundings for method in (METHODS if name == ALL else (name,))]
    for method in methods:
        check_rounding(method)
    beyond = next((exponent for exponent in exponents if not 0 < exponent <= 1), None)
    if beyond is not None:
        raise PlanError(f"The exponent {beyond} of a pre_quant_scale is not above 0 and at most 1.")
    packed = [
        Choice(nvfp4.NAME, method, exponent, with_gain)
        for with_gain in ((False, True) if gain else (False,))
        for exponent in (None, *exponents)
        for method in methods
    ]
    found = [Choice(KEEP)]
    for policy in wanted:
        found += packed if policy == nvfp4.NAME else [Choice(policy)]
    return tuple(dict.fromkeys(found))
