"""Carry out a plan: one pass over the source, each tensor changed and written as it comes by.

Reading, hashing, quantizing and writing overlap on a few threads. Of every quantized weight a sample of rows is
decoded and measured while it is in memory, so that the source is read only once. The bytes do not depend on the
number of threads or on the order of their work.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait

import torch

from ..calibration import Calibration
from .buffers import CHECK_SECONDS, Buffers
from .encode import description, encode, weight_of
from .errors import Cancelled
from .formats import FORMATS
from .measure import LayerError, measure_encoded
from .memory import memory_for
from .pipeline import Progress
from .plan import LayerDecision, Outcome, Plan
from .source import Source
from .stream import Part, Stream
from .writer import Writer

LEAST_UNDER_WAY, MOST_UNDER_WAY = 96 << 20, 256 << 20
"""Bytes of the source in memory at once, as many as the largest weight in each thread that quantizes, and the one that is
being read, so that none of them waits; more would cost fresh memory for nothing."""


class Execution:
    """The work of one conversion.

    ``run`` fills in ``digests``, the hexadecimal SHA-256 of each file of the source, and ``known``: every tensor
    of the output that was written, with the error of the weights that were quantized. ``outcomes`` tells what became
    of layers otherwise than planned, by their names, those that an earlier run finished among them.
    """

    def __init__(
        self,
        source: Source,
        plan: Plan,
        calibration: Calibration | None,
        writer: Writer,
        device: torch.device,
        workers: int,
        progress: Progress,
        check: Callable[[], None],
    ):
        """Nothing is read or written yet.

        Args:
            source: what the plan was made for.
            plan: what to do.
            calibration: what the plan was made with.
            writer: the output, with everything that an earlier run finished in ``done``.
            device: where weights are quantized.
            workers: threads that quantize and write.
            progress: told bytes of the output written and in all.
            check: called from all threads several times a second; may raise to cancel.
        """
        self._source, self._plan, self._writer = source, plan, writer
        self._statistics = calibration.layers if calibration is not None else {}
        self._device, self._workers = device, workers
        self._progress, self._check = progress, check
        self._quantized = {f"{layer.source_name}.weight": layer for layer in plan.layers if layer.action == "quantize"}
        kept = [layer for layer in plan.layers if layer.action == "copy"]
        self._copied = {
            **{copy.source_name: copy.spec.name for copy in plan.copies},
            **{f"{layer.source_name}.weight": f"{layer.name}.weight" for layer in kept},
        }
        self._kept = {
            f"{layer.name}.weight": LayerError.unchanged(layer.name, layer.format)
            for layer in kept
            if layer.tag is not None
        }
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._waiting: list[Future[None]] = []
        again = {spec.name for layer in plan.layers if self._is_unfinished(layer) for spec in layer.outputs}
        self._bytes_written = sum(
            spec.nbytes for spec in plan.specs() if spec.name in writer.done and spec.name not in again
        )
        self.known: dict[str, LayerError | None] = {}
        self.outcomes = {
            layer.name: Outcome.from_json(writer.remarks[layer.name])
            for layer in plan.layers
            if layer.name in writer.remarks and not self._is_unfinished(layer)
        }
        self.digests: list[str] = []

    def run(self) -> None:
        """Write every tensor of the plan that is not there yet.

        Raises:
            SourceError, ConversionError: as reading, encoding and writing raise them, and what ``check`` raises.
        """
        self._describe()
        wanted = self._wanted()
        stream = Stream(self._source, wanted, Buffers(self._under_way(wanted)), self._go_on)
        with ThreadPoolExecutor(self._workers, thread_name_prefix="nvfp4-studio") as pool:
            try:
                for part in stream:
                    self._waiting.append(pool.submit(self._take, part))
                    self._tell(part.name)
                while self._waiting:
                    wait(self._waiting, CHECK_SECONDS)
                    self._go_on()
                    self._tell("writing")
            finally:
                self._stop.set()
        self.digests = stream.digests

    def _under_way(self, wanted: Mapping[str, bool]) -> int:
        largest = max((self._source.tensors[name].nbytes for name, whole in wanted.items() if whole), default=0)
        return min(MOST_UNDER_WAY, max(LEAST_UNDER_WAY, (self._workers + 1) * largest))

    def _wanted(self) -> dict[str, bool]:
        """Tensors of the source that are still to be written; True for those that are needed whole."""
        done = self._writer.done
        wanted = {name: False for name, output in self._copied.items() if output not in done}
        wanted.update((name, True) for name, layer in self._quantized.items() if self._is_unfinished(layer))
        return wanted

    def _is_unfinished(self, layer: LayerDecision) -> bool:
        """Whether an earlier run left something of a quantized layer to be done; then all of it is done again."""
        return layer.action == "quantize" and not self._writer.done.issuperset(spec.name for spec in layer.outputs)

    def _describe(self) -> None:
        """The small tensors that need no weight: tags, scales that are kept, constants."""
        for layer in self._plan.layers:
            encoded = {"weight", *(["pre_quant_scale"] if layer.pre_quant_exponent is not None else [])}
            if layer.action == "quantize":
                encoded |= FORMATS[layer.format].declare(layer.shape, layer.tag or {}).keys()
            finished = frozenset() if self._is_unfinished(layer) else self._writer.done
            for spec in layer.outputs:
                if spec.name[len(layer.name) + 1 :] not in encoded and spec.name not in finished:
                    self._writer.write(spec.name, description(self._source, layer, spec))
                    self._count(spec.nbytes)
        for constant in self._plan.constants:
            if constant.spec.name not in self._writer.done:
                self._writer.write_piece(constant.spec.name, 0, memoryview(constant.data))
                self._count(len(constant.data))

    def _take(self, part: Part) -> None:
        """One part of the source, on a thread of the pool."""
        try:
            self._check_thread()
            layer = self._quantized.get(part.name)
            with memory_for(part.name):
                if layer is None:
                    self._copy(part)
                else:
                    self._quantize(layer, part)
        finally:
            part.buffer.release()

    def _quantize(self, layer: LayerDecision, part: Part) -> None:
        info = self._source.tensors[part.name]
        stored = torch.frombuffer(part.buffer.view, dtype=info.torch_dtype).reshape(info.shape)
        weight = weight_of(self._source, layer, stored)
        done = encode(weight, layer, self._statistics.get(layer.module), self._device, self._check_thread)
        if done.outcome.notes:
            # Before the tensors: a run that goes on after they are on disk must know.
            self._writer.remark(layer.name, done.outcome.to_json())
        for suffix, tensor in done.tensors.items():
            self._writer.write(f"{layer.name}.{suffix}", tensor)
            self._count(tensor.nbytes)
        error = measure_encoded(done.weight, layer, done.tensors, self._check_thread)
        with self._lock:
            self.known[f"{layer.name}.weight"] = error
            if done.outcome.notes:
                self.outcomes[layer.name] = done.outcome

    def _copy(self, part: Part) -> None:
        name = self._copied[part.name]
        self._writer.write_piece(name, part.first, part.buffer.view)
        self._count(len(part.buffer.view))
        with self._lock:
            self.known[name] = self._kept.get(name)

    def _count(self, written: int) -> None:
        with self._lock:
            self._bytes_written += written

    def _tell(self, label: str) -> None:
        self._progress(self._bytes_written, self._writer.size, label)

    def _go_on(self) -> None:
        """On the calling thread: raise what another thread or the caller's check raised."""
        for future in [future for future in self._waiting if future.done()]:
            self._waiting.remove(future)
            future.result()
        self._check()

    def _check_thread(self) -> None:
        """On a thread of the pool: stop when the conversion has failed elsewhere."""
        if self._stop.is_set():
            raise Cancelled("Another part of the conversion failed.")
        self._check()
