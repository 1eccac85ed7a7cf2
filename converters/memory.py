"""Memory that runs out, told as one sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from .errors import ConversionError

_CPU_ALLOCATOR = "DefaultCPUAllocator"
"""How torch's error begins when a CPU has no memory left; it has no class of its own."""


@contextlib.contextmanager
def memory_for(what: str) -> Iterator[None]:
    """Raises ConversionError when memory for ``what``, such as a tensor, runs out in the block."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConversionError(
            f"The GPU has not enough memory for {what}; close what uses it, or compute on the CPU with the command line's "
            "--device cpu."
        ) from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and _CPU_ALLOCATOR not in str(error):
            raise
        raise ConversionError(
            f"There is not enough memory for {what}; close other programs and start again."
        ) from error
