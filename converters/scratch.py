"""Memory that a thread uses again for its next piece of work.

Torch gives memory on a CPU back to the system as soon as it is free, and getting it anew costs a page fault for
every 4 KiB: more than the arithmetic itself in pieces that fit a cache.
"""

from __future__ import annotations

import math
import threading

import torch

_own = threading.local()


def scratch(name: str, shape: tuple[int, ...] | torch.Size, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A tensor with any values, valid until this thread asks for the same name again.

    On a GPU it is a new one, because torch's allocator there keeps what is free.
    """
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    size = math.prod(shape) * dtype.itemsize
    held: dict[str, torch.Tensor] = _own.__dict__.setdefault("held", {})
    memory = held.get(name)
    if memory is None or len(memory) < size:
        with torch.inference_mode(False):
            memory = held[name] = torch.empty(size, dtype=torch.uint8)
    return memory[:size].view(dtype).view(shape)
