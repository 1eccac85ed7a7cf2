"""The calibration file: one safetensors file, versioned, replaced atomically, read as hostile input.

Layout, version 2, for L layers in alphabetical order: `call_amax`, `block_amax`, `element_magnitude`
int64 [L, 641], `schedule` int64 [2, 16], `fold_samplings` int64 [8], `schedule_amax` float32 [L, 2, 16],
`fold_amax` float32 [L, 8], `weight_samples` float32 [L, 16] (NaN where unknown). With more detail, for the
i-th layer: `channels.i.sums` int64 [K, 2], `channels.i.amax` float32 [K]; `curvature.i.pieces` int64 [p, 2],
`curvature.i.sums` int64; `reservoir.i.hashes`, `reservoir.i.labels` int64 [n], `reservoir.i.values`
bfloat16 [n, K]. The header's metadata holds `format`, `version` and, as JSON in `calibration`, the rest:
`samplings`, `images`, `steps`, `adaptations` (description -> samplings), `prompts` (see prompts.py; absent where
unknown), `unobserved` (name -> reason), `layers`, a list of [name, in_features, out_features, calls, rows,
elements, nonfinite, channel rows, curvature rows, reservoir rows, amax], and `equal`, tensor name -> the one that
holds the same and is stored.

A few stacked tensors keep the header short; 600 layers take 9 MB at detail `scales`. Curvature sums and
reservoir rows, which may take gigabytes, are written layer by layer, and a loaded calibration reads them
from the file when they are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from .convergence import FOLDS
from .coverage import SCHEDULE_BINS
from .details_file import LoadedDetails, detail_entries, write_floats, write_integers, write_rows
from .errors import CalibrationError
from .files import replacing
from .fingerprint import SAMPLES, UNKNOWN
from .histogram import BINS
from .prompts import KEPT, Prompts
from .reading import MAX_COUNT, MAX_LAYERS, TensorFile, broken, is_count, is_name
from .statistics import PASSES, Calibration, LayerStatistics
from .writing import TensorWriter, entry, room_for

FORMAT = "nvfp4-studio-calibration"
VERSION = "2"
MAX_AMAX = torch.finfo(torch.float32).max

_HISTOGRAMS = ("call_amax", "block_amax", "element_magnitude")
_FIELDS = ("in_features", "out_features", "calls", "rows", "elements", "nonfinite")
_COUNTS = len(_FIELDS) + 3
_AMAX = 1 + _COUNTS


def save(calibration: Calibration, path: str | PathLike[str]) -> None:
    """Write the file, replacing an older one only when the new one is complete on disk.

    The same statistics always give the same bytes. `path` may be the file that parts of the calibration are
    still to be read from; a calibration loaded from it earlier then has to be loaded again. Raises
    CalibrationError when it cannot be written; the older file is then still there.
    """
    path = Path(path)
    layers = [layer for _, layer in sorted(calibration.layers.items())]
    integers, floats = _stacked(calibration, layers)
    entries = {name: entry(tensor.dtype, list(tensor.shape)) for name, tensor in {**integers, **floats}.items()}
    details = detail_entries(layers)
    room = room_for({**entries, **details}, _metadata(calibration, {name: name for name in details}))
    equal: dict[str, str] = {}
    try:
        with replacing(path) as file:
            writer = TensorWriter(file, room)
            for name, tensor in integers.items():
                writer.write(name, tensor)
            write_integers(writer, layers, equal)
            for name, tensor in floats.items():
                writer.write(name, tensor)
            write_floats(writer, layers, equal)
            write_rows(writer, layers, equal)
            writer.finish(_metadata(calibration, equal))
    except OSError as error:
        raise CalibrationError(f"The calibration {path} cannot be written: {error.strerror or error}.") from error


def load(path: str | PathLike[str]) -> Calibration:
    """Read a file that `save` wrote. Raises CalibrationError, with what is wrong, for anything else."""
    path = Path(path)
    try:
        file = TensorFile(path)
        described = _described(path, file.metadata)
        count = len(described["layers"])
        tensors = {name: file.read(name, torch.int64, [count, BINS]) for name in _HISTOGRAMS}
        tensors["schedule"] = file.read("schedule", torch.int64, [len(PASSES), SCHEDULE_BINS])
        tensors["fold_samplings"] = file.read("fold_samplings", torch.int64, [FOLDS])
        schedule_amax = file.read("schedule_amax", torch.float32, [count, len(PASSES), SCHEDULE_BINS])
        fold_amax = file.read("fold_amax", torch.float32, [count, FOLDS])
        samples = file.read("weight_samples", torch.float32, [count, SAMPLES])
        details = LoadedDetails(file, described["equal"])
        found = [details.of(index, *_sizes(row)) for index, row in enumerate(described["layers"])]
    except FileNotFoundError as error:
        raise CalibrationError(f"There is no calibration {path}.") from error
    except OSError as error:
        raise CalibrationError(f"The calibration {path} cannot be read: {error.strerror or error}.") from error
    for name, tensor in tensors.items():
        if tensor.numel() and not 0 <= int(tensor.min()) <= int(tensor.max()) <= MAX_COUNT:
            raise broken(path, f"{name} holds a count outside of 0..2**53")
    for name, tensor in (("schedule_amax", schedule_amax), ("fold_amax", fold_amax)):
        if not bool((torch.isfinite(tensor) & (tensor >= 0)).all()):
            raise broken(path, f"{name} holds a value that is negative or not finite")
    known = torch.isfinite(samples).all(1).tolist()
    layers = {}
    for index, row in enumerate(described["layers"]):
        in_features, out_features, calls, rows, elements, nonfinite = row[1 : 1 + len(_FIELDS)]
        layer = LayerStatistics(
            in_features=in_features,
            out_features=out_features,
            calls=calls,
            rows=rows,
            elements=elements,
            nonfinite=nonfinite,
            amax=float(row[_AMAX]),
            call_amax=tensors["call_amax"][index].clone(),
            block_amax=tensors["block_amax"][index].clone(),
            element_magnitude=tensors["element_magnitude"][index].clone(),
            schedule_amax=schedule_amax[index].clone(),
            fold_amax=fold_amax[index].clone(),
            weight_samples=samples[index].clone() if known[index] else UNKNOWN,
            channels=found[index][0],
            curvature=found[index][1],
            reservoir=found[index][2],
        )
        if int(layer.element_magnitude.sum()) != layer.elements or int(layer.call_amax.sum()) > layer.calls:
            raise broken(path, f"the counts of layer {row[0]} contradict each other")
        layers[row[0]] = layer
    return Calibration(
        layers=layers,
        unobserved=described["unobserved"],
        samplings=described["samplings"],
        images=described["images"],
        steps=described["steps"],
        schedule=tensors["schedule"],
        fold_samplings=tensors["fold_samplings"],
        adaptations=described["adaptations"],
        prompts=described["prompts"],
    )


def merge_files(paths: Iterable[str | PathLike[str]]) -> Calibration:
    """All files together; the order does not matter. Raises CalibrationError naming the file that does not fit."""
    merged = Calibration()
    for path in paths:
        loaded = load(path)
        try:
            merged = merged.merged(loaded)
        except CalibrationError as error:
            raise CalibrationError(f"{path} does not fit the files before it. {error}") from error
    return merged


def _stacked(
    calibration: Calibration, layers: list[LayerStatistics]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The tensors that every calibration has: int64 and float32."""
    integers = {name: _stack([getattr(layer, name) for layer in layers], (BINS,), torch.int64) for name in _HISTOGRAMS}
    integers |= {"schedule": calibration.schedule, "fold_samplings": calibration.fold_samplings}
    unknown = torch.full((SAMPLES,), float("nan"))
    samples = [layer.weight_samples if layer.weight_samples.numel() else unknown for layer in layers]
    floats = {
        "schedule_amax": _stack([layer.schedule_amax for layer in layers], (len(PASSES), SCHEDULE_BINS)),
        "fold_amax": _stack([layer.fold_amax for layer in layers], (FOLDS,)),
        "weight_samples": _stack(samples, (SAMPLES,)),
    }
    return integers, floats


def _stack(tensors: list[torch.Tensor], shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.stack(tensors) if tensors else torch.zeros(0, *shape, dtype=dtype)


def _metadata(calibration: Calibration, equal: dict[str, str]) -> dict[str, str]:
    described = {
        "samplings": calibration.samplings,
        "images": calibration.images,
        "steps": calibration.steps,
        "adaptations": dict(sorted(calibration.adaptations.items())),
        "unobserved": dict(sorted(calibration.unobserved.items())),
        "layers": [
            [
                name,
                *(getattr(layer, field) for field in _FIELDS),
                layer.channels.rows if layer.channels else 0,
                layer.curvature.rows if layer.curvature else 0,
                len(layer.reservoir.hashes) if layer.reservoir else 0,
                layer.amax,
            ]
            for name, layer in sorted(calibration.layers.items())
        ],
        "equal": equal,
    }
    if calibration.prompts.samplings:
        described["prompts"] = calibration.prompts.to_json()
    return {"format": FORMAT, "version": VERSION, "calibration": json.dumps(described, allow_nan=False)}


def _sizes(row: list[Any]) -> tuple[int, int, int, int]:
    """in_features and the rows of the three details."""
    return row[1], row[7], row[8], row[9]


def _described(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """The checked JSON part of the header."""
    if metadata.get("format") != FORMAT:
        raise broken(path, "it is a safetensors file of another kind")
    if metadata.get("version") != VERSION:
        raise broken(
            path,
            f"its version is {metadata.get('version', '')[:40]!r} and this nvfp4-studio reads {VERSION!r}, so "
            "calibrate again",
        )
    try:
        described = json.loads(metadata.get("calibration", ""))
    except (ValueError, RecursionError) as error:
        raise broken(path, "its description is no JSON") from error
    if not isinstance(described, dict):
        raise broken(path, "its description is no JSON object")
    for name in ("samplings", "images", "steps"):
        if not is_count(described.get(name)):
            raise broken(path, f"{name} is {described.get(name)!r:.40}, no count")
    prompts = Prompts.from_json(described.get("prompts"), described["samplings"])
    if prompts is None:
        raise broken(path, f"the prompts are not up to {KEPT} ordered digests with the number of their samplings")
    described["prompts"] = prompts
    adaptations, equal = described.get("adaptations"), described.get("equal")
    if not isinstance(adaptations, dict) or not all(is_name(k) and is_count(v) for k, v in adaptations.items()):
        raise broken(path, "the list of adaptations is not descriptions with counts")
    if not isinstance(equal, dict) or not all(is_name(key) and is_name(value) for key, value in equal.items()):
        raise broken(path, "the list of equal tensors is not names with names")
    unobserved, layers = described.get("unobserved"), described.get("layers")
    if not isinstance(unobserved, dict) or not all(is_name(key) and is_name(why) for key, why in unobserved.items()):
        raise broken(path, "the list of unobserved layers is not names with reasons")
    if not isinstance(layers, list) or len(layers) > MAX_LAYERS:
        raise broken(path, f"the layers are no list of at most {MAX_LAYERS}")
    for row in layers:
        if not (
            isinstance(row, list) and len(row) == 2 + _COUNTS and is_name(row[0]) and all(map(is_count, row[1:-1]))
        ):
            raise broken(path, f"the layer entry {row!r:.60} is not a name with nine counts and an amax")
        if not isinstance(row[_AMAX], (int, float)) or isinstance(row[_AMAX], bool) or not 0 <= row[_AMAX] <= MAX_AMAX:
            raise broken(path, f"the amax of layer {row[0]} is {row[_AMAX]!r:.40}")
    if len({row[0] for row in layers}) != len(layers):
        raise broken(path, "a layer is listed twice")
    return described
