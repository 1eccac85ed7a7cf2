"""Where a calibration file keeps what the levels of detail add, each content once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .channels import ChannelStatistics
from .curvature import MAX_EXPONENT, MAX_ROWS, Curvature, Sums, triangle, width_of
from .errors import CalibrationError
from .exact import LOW_BITS, MAX_HIGH
from .reading import TensorFile, broken
from .reservoir import EMPTY, LABEL_BINS, ROWS, Reservoir
from .statistics import PASSES, LayerStatistics
from .writing import Header, TensorWriter, entry

Details = tuple[ChannelStatistics | None, Curvature | None, Reservoir | None]
_MOST_EXPONENTS = 64


def detail_entries(layers: Sequence[LayerStatistics]) -> Header:
    """The header's lines if no two contents were equal: the longest that they can be."""
    entries: Header = {}
    for index, layer in enumerate(layers):
        if layer.channels is not None:
            entries[f"channels.{index}.sums"] = entry(torch.int64, list(layer.channels.sums.shape))
            entries[f"channels.{index}.amax"] = entry(torch.float32, list(layer.channels.amax.shape))
        if layer.curvature is not None:
            entries[f"curvature.{index}.pieces"] = entry(torch.int64, [len(layer.curvature.pieces()), 2])
            entries[f"curvature.{index}.sums"] = entry(torch.int64, [layer.curvature.size()])
        if layer.reservoir is not None:
            rows = len(layer.reservoir.hashes)
            entries[f"reservoir.{index}.hashes"] = entry(torch.int64, [rows])
            entries[f"reservoir.{index}.labels"] = entry(torch.int64, [rows])
            entries[f"reservoir.{index}.values"] = entry(torch.bfloat16, [rows, layer.in_features])
    return entries


def write_integers(writer: TensorWriter, layers: Sequence[LayerStatistics], equal: dict[str, str]) -> None:
    """Everything of int64. `equal` takes the tensors that were stored before under another name."""
    write = _Once(writer, equal)
    for index, layer in enumerate(layers):
        if layer.channels is not None:
            write(f"channels.{index}.sums", layer.channels.sums)
        if layer.reservoir is not None:
            write(f"reservoir.{index}.hashes", layer.reservoir.hashes)
            write(f"reservoir.{index}.labels", layer.reservoir.labels)
        if layer.curvature is not None:
            pieces = torch.tensor(layer.curvature.pieces(), dtype=torch.int64).reshape(-1, 2)
            write(f"curvature.{index}.pieces", pieces)
            write.sums(f"curvature.{index}.sums", layer.curvature)


def write_floats(writer: TensorWriter, layers: Sequence[LayerStatistics], equal: dict[str, str]) -> None:
    """Everything of float32."""
    write = _Once(writer, equal)
    for index, layer in enumerate(layers):
        if layer.channels is not None:
            write(f"channels.{index}.amax", layer.channels.amax)


def write_rows(writer: TensorWriter, layers: Sequence[LayerStatistics], equal: dict[str, str]) -> None:
    """The reservoirs' rows, bfloat16."""
    write = _Once(writer, equal)
    for index, layer in enumerate(layers):
        if layer.reservoir is not None:
            write(f"reservoir.{index}.values", layer.reservoir.values())


class _Once:
    """Writes each content once, and notes under which name."""

    def __init__(self, writer: TensorWriter, equal: dict[str, str]) -> None:
        self._writer = writer
        self._equal = equal
        self._same_parts: dict[tuple[int, ...], str] = {}

    def __call__(self, name: str, tensor: torch.Tensor) -> None:
        self._note(name, self._writer.write_once(name, tensor.dtype, list(tensor.shape), [tensor]))

    def sums(self, name: str, curvature: Curvature) -> None:
        """Adding up and reading is spared where the same parts have been added before."""
        parts = tuple(sorted(id(part) for part in curvature.parts))
        if parts not in self._same_parts:
            pieces = curvature.stream()
            self._same_parts[parts] = self._writer.write_once(name, torch.int64, [curvature.size()], pieces)
        self._note(name, self._same_parts[parts])

    def _note(self, name: str, stored: str) -> None:
        if stored != name:
            self._equal[name] = stored


class LoadedDetails:
    """Reads details of a checked file; layers whose tensors are one in the file share one object."""

    def __init__(self, file: TensorFile, equal: dict[str, str]) -> None:
        self._file = file
        self._equal = equal
        self._sums: dict[tuple[str, str, int], Sums] = {}

    def of(self, index: int, features: int, channel_rows: int, curvature_rows: int, rows: int) -> Details:
        """The details of the index-th layer. Raises CalibrationError for anything that cannot be."""
        channels = self._channels(index, features, channel_rows) if channel_rows else None
        curvature = self._curvature(index, features, curvature_rows) if curvature_rows else None
        return channels, curvature, self._reservoir(index, features, rows) if rows else None

    def _name(self, kind: str, index: int, part: str) -> str:
        name = f"{kind}.{index}.{part}"
        return self._equal.get(name, name)

    def _channels(self, index: int, features: int, rows: int) -> ChannelStatistics:
        sums = self._file.read(self._name("channels", index, "sums"), torch.int64, [features, 2])
        amax = self._file.read(self._name("channels", index, "amax"), torch.float32, [features])
        high, low = sums.unbind(1)
        if not bool(((high >= 0) & (high < MAX_HIGH) & (low >= 0) & (low < 1 << LOW_BITS)).all()):
            raise self._broken(f"the sums of squares of layer {index} are none")
        if not bool((torch.isfinite(amax) & (amax >= 0)).all()):
            raise self._broken(f"the channel amax of layer {index} holds a value that is negative or not finite")
        return ChannelStatistics(rows, amax, sums)

    def _curvature(self, index: int, features: int, rows: int) -> Curvature:
        names = self._name("curvature", index, "pieces"), self._name("curvature", index, "sums")
        key = (*names, features)
        if key not in self._sums:
            self._sums[key] = self._parts(index, features, *names)
        if rows > MAX_ROWS:
            raise self._broken(f"layer {index} claims sums over {rows} rows")
        return Curvature(rows, features, (self._sums[key],))

    def _parts(self, index: int, features: int, pieces_name: str, sums_name: str) -> Sums:
        blocks = -(-features // 128)
        shape = self._file.shape(pieces_name)
        if len(shape) != 2 or shape[1] != 2 or shape[0] > _MOST_EXPONENTS * blocks:
            raise self._broken(f"{pieces_name} has shape {shape}")
        pieces = tuple(
            (block, exponent) for block, exponent in self._file.read(pieces_name, torch.int64, shape).tolist()
        )
        sound = all(0 <= block < blocks and abs(exponent) <= MAX_EXPONENT for block, exponent in pieces)
        if not sound or list(pieces) != sorted(set(pieces)):
            raise self._broken(f"{pieces_name} does not list blocks of layer {index} in order")
        size = sum(triangle(width_of(features, block)) for block, _ in pieces)
        return Sums(features, pieces, self._file.stored(sums_name, torch.int64, [size]))

    def _reservoir(self, index: int, features: int, rows: int) -> Reservoir:
        if rows > ROWS:
            raise self._broken(f"layer {index} claims {rows} rows of its inputs")
        hashes = self._file.read(self._name("reservoir", index, "hashes"), torch.int64, [rows])
        labels = self._file.read(self._name("reservoir", index, "labels"), torch.int64, [rows])
        values = self._file.stored(self._name("reservoir", index, "values"), torch.bfloat16, [rows, features])
        if int(hashes[0]) < 0 or int(hashes[-1]) >= EMPTY or bool((hashes[1:] <= hashes[:-1]).any()):
            raise self._broken(f"the rows of layer {index} are not in order")
        if not 0 <= int(labels.min()) <= int(labels.max()) < LABEL_BINS * len(PASSES):
            raise self._broken(f"the rows of layer {index} are of no part of the schedule")
        return Reservoir(hashes, labels, (values,), tuple((0, row) for row in range(rows)))

    def _broken(self, why: str) -> CalibrationError:
        return broken(self._file.path, why)
