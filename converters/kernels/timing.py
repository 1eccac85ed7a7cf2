"""A table of kernel speeds from one's own GPU."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..errors import PlanError
from ..formats.multiplying import is_native, multiplication
from .table import KERNELS, KernelTable

SHAPES = ((4096, 3072, 3072), (4096, 12288, 3072), (4096, 3072, 12288))
"""Rows, outputs and inputs: attention and MLP of a large image model at 1024²."""
COPIED = 1 << 28
"""Bytes that are copied to measure the memory, far more than any cache holds."""
SECONDS = 0.2
"""Each work is repeated for about so long, after as long to warm up."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one kind and shape. ``together``: ``multiply`` contains ``quantize``."""

    kind: str
    shape: tuple[int, int, int]
    multiply: float
    quantize: float = 0.0
    together: bool = False


def table_from_timings(
    name: str, gpu: str, date: str, timings: Sequence[Timing], copied: int, copying: float
) -> KernelTable:
    """Rates from times: all operations of a kind over all its seconds, all input bytes over all seconds of rounding.

    Args:
        copied: bytes that were read and written again in ``copying`` seconds.
    """
    tflops, quantizing = {}, {}
    for kind in KERNELS:
        own = [timing for timing in timings if timing.kind == kind]
        if not own:
            continue
        operations = sum(2.0 * rows * outputs * inputs for rows, outputs, inputs in (timing.shape for timing in own))
        # A product that is measured together with its rounding is never taken for less than a tenth of both.
        seconds = sum(
            max(timing.multiply - timing.quantize, timing.multiply / 10) if timing.together else timing.multiply
            for timing in own
        )
        tflops[kind] = float(f"{operations / seconds / 1e12:.4g}")
        rounding = sum(timing.quantize for timing in own)
        if rounding > 0:
            read = sum(2.0 * timing.shape[0] * timing.shape[2] for timing in own)
            quantizing[kind] = float(f"{read / rounding / 1e9:.4g}")
    return KernelTable(
        name=name,
        gpu=gpu,
        source="measured on this GPU by nvfp4-studio kernels --measure",
        date=date,
        tflops=tflops,
        bandwidth=float(f"{2.0 * copied / copying / 1e9:.4g}"),
        measured=True,
        quantizing=quantizing,
    )


def measure_table(name: str, told: Callable[[str], None] = lambda line: None) -> KernelTable:
    """Time every kind of kernel that the first CUDA device has.

    Args:
        name: of the table.
        told: called with a line after each measurement.

    Raises:
        PlanError: there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise PlanError(
            "There is no CUDA device whose kernels could be measured; choose one of the built-in tables instead."
        )
    device = torch.device("cuda")
    timings = []
    for kind in KERNELS:
        if not is_native(kind):
            told(f"{kind}: this GPU has no units for it")
            continue
        for shape in SHAPES:
            timings.append(time_one(kind, shape, device))
            told(f"{kind} {shape}: {timings[-1].multiply * 1e6:.0f} us, rounding {timings[-1].quantize * 1e6:.0f} us")
    block = torch.empty(COPIED, dtype=torch.uint8, device=device)
    other = torch.empty_like(block)
    copying = _seconds(lambda: other.copy_(block), device)
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return table_from_timings(name, torch.cuda.get_device_name(device), today, timings, COPIED, copying)


def time_one(kind: str, shape: tuple[int, int, int], device: torch.device) -> Timing:
    """One kind and shape (rows, outputs, inputs) on a device."""
    rows, outputs, inputs = shape
    generator = torch.Generator(device).manual_seed(0)
    values = torch.randn(rows, inputs, dtype=torch.bfloat16, device=device, generator=generator)
    weight = torch.randn(outputs, inputs, dtype=torch.bfloat16, device=device, generator=generator)
    work = multiplication(kind, values, weight)
    quantize = _seconds(work.quantize, device) if work.quantize is not None else 0.0
    return Timing(kind, shape, _seconds(work.multiply, device), quantize, work.together)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one repetition, the device waited for at both ends."""

    def repeated(count: int) -> float:
        _wait(device)
        started = time.perf_counter()
        for _ in range(count):
            work()
        _wait(device)
        return time.perf_counter() - started

    repeated(1)
    once = repeated(1)
    count = max(1, min(10_000, int(SECONDS / max(once, 1e-6))))
    repeated(count)
    return repeated(count) / count


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
