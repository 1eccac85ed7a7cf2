"""Pieces of a weight to the device that computes and their results back."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import torch

Results = tuple[torch.Tensor, ...]
_idle: defaultdict[torch.device, list[torch.cuda.Stream]] = defaultdict(list)


def through(
    device: torch.device, pieces: Iterable[torch.Tensor], compute: Callable[[torch.Tensor], Results]
) -> Iterator[Results]:
    """Yield ``compute(piece)`` of each piece, on the CPU, in order.

    On a CUDA device two pieces are under way at once, in pinned memory and on a stream of their own: one
    is uploaded and computed while the results of the one before it come back. Torch's host allocator uses the
    pinned memory again, and so does that of the device, which keeps what is free for each stream: the stream serves
    the next call as well.

    Args:
        device: where ``compute`` runs.
        pieces: on the CPU.
        compute: from a piece on the device to tensors there, without waiting for it.
    """
    if device.type != "cuda":
        yield from map(compute, pieces)
        return
    with _stream(device) as stream:
        # What was made on the caller's stream, such as tables, must be there before the first piece is computed.
        stream.wait_stream(torch.cuda.current_stream(device))
        under_way: tuple[torch.cuda.Event, Results] | None = None
        for piece in pieces:
            with torch.cuda.stream(stream):
                results = compute(piece.pin_memory().to(device, non_blocking=True))
                copies = tuple(
                    torch.empty(result.shape, dtype=result.dtype, pin_memory=True).copy_(result, non_blocking=True)
                    for result in results
                )
                finished = stream.record_event()
            if under_way is not None:
                under_way[0].synchronize()
                yield under_way[1]
            under_way = finished, copies
        if under_way is not None:
            under_way[0].synchronize()
            yield under_way[1]


@contextlib.contextmanager
def _stream(device: torch.device) -> Iterator[torch.cuda.Stream]:
    """A stream that nobody else uses during the block."""
    try:
        stream = _idle[device].pop()
    except IndexError:
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    try:
        yield stream
    finally:
        _idle[device].append(stream)
