"""The calibration file: one safetensors file, versioned, replaced atomically, read as hostile input.

Layout, version 1, for L layers in alphabetical order: `call_amax`, `block_amax`, `element_magnitude`
int64 [L, 641], `schedule_amax` float32 [L, 16], `schedule` int64 [16]. The header's metadata holds
`format`, `version` and, as JSON in `calibration`, the rest: `samplings`, `images`, `steps`, `unobserved`
(name -> reason) and `layers`, a list of [name, in_features, out_features, calls, rows, elements, nonfinite,
amax]. A few stacked tensors keep the header short; 600 layers take 9 MB.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize

from .errors import CalibrationError
from .files import write_atomically
from .histogram import BINS
from .statistics import SCHEDULE_BINS, Calibration, LayerStatistics

FORMAT = "nvfp4-studio-calibration"
VERSION = "1"
MAX_FILE_BYTES = 1 << 30
MAX_LAYERS = 32768
MAX_NAME = 1024
MAX_COUNT = 1 << 53
"""Counts are exact as JSON numbers up to here; 640 of them cannot overflow an int64 sum."""

MAX_AMAX = torch.finfo(torch.float32).max

_HISTOGRAMS = ("call_amax", "block_amax", "element_magnitude")
_FIELDS = ("in_features", "out_features", "calls", "rows", "elements", "nonfinite")


def save(calibration: Calibration, path: str | PathLike[str]) -> None:
    """Write the file, replacing an older one only when the new one is complete on disk.

    Raises CalibrationError when it cannot be written; the older file is then still there.
    """
    layers = sorted(calibration.layers.items())
    stacked = {
        name: torch.stack([getattr(layer, name) for _, layer in layers])
        if layers
        else torch.zeros(0, BINS, dtype=torch.int64)
        for name in _HISTOGRAMS
    }
    stacked["schedule_amax"] = (
        torch.stack([layer.schedule_amax for _, layer in layers]) if layers else torch.zeros(0, SCHEDULE_BINS)
    )
    stacked["schedule"] = calibration.schedule.clone()
    described = {
        "samplings": calibration.samplings,
        "images": calibration.images,
        "steps": calibration.steps,
        "unobserved": dict(sorted(calibration.unobserved.items())),
        "layers": [[name, *(getattr(layer, field) for field in _FIELDS), layer.amax] for name, layer in layers],
    }
    metadata = {"format": FORMAT, "version": VERSION, "calibration": json.dumps(described, allow_nan=False)}
    try:
        write_atomically(Path(path), serialize(stacked, metadata))
    except OSError as error:
        raise CalibrationError(f"The calibration {path} cannot be written: {error.strerror or error}.") from error


def load(path: str | PathLike[str]) -> Calibration:
    """Read a file that `save` wrote. Raises CalibrationError, with what is wrong, for anything else."""
    try:
        size = Path(path).stat().st_size
        if size > MAX_FILE_BYTES:
            raise _broken(path, f"it has {size} bytes, more than the {MAX_FILE_BYTES} of the largest calibration")
        with safe_open(path, framework="pt") as file:
            described = _described(path, file.metadata() or {})
            rows = described["layers"]
            wanted: dict[str, tuple[list[int], str]] = {name: ([len(rows), BINS], "I64") for name in _HISTOGRAMS}
            wanted["schedule_amax"] = ([len(rows), SCHEDULE_BINS], "F32")
            wanted["schedule"] = ([SCHEDULE_BINS], "I64")
            tensors = {}
            for name, (shape, dtype) in wanted.items():
                if name not in file.keys():  # noqa: SIM118 - safe_open offers keys() only
                    raise _broken(path, f"the tensor {name} is missing")
                found = file.get_slice(name)
                if found.get_shape() != shape or found.get_dtype() != dtype:
                    raise _broken(path, f"{name} is {found.get_dtype()} {found.get_shape()}, expected {dtype} {shape}")
                # A copy: the file may be replaced while a mapped tensor is still in use.
                tensors[name] = file.get_tensor(name).clone()
    except FileNotFoundError as error:
        raise CalibrationError(f"There is no calibration {path}.") from error
    except OSError as error:
        raise CalibrationError(f"The calibration {path} cannot be read: {error.strerror or error}.") from error
    except SafetensorError as error:
        raise _broken(path, f"it is no safetensors file ({str(error)[:200]!r})") from error
    for name in (*_HISTOGRAMS, "schedule"):
        if tensors[name].numel() and not 0 <= int(tensors[name].min()) <= int(tensors[name].max()) <= MAX_COUNT:
            raise _broken(path, f"{name} holds a count outside of 0..2**53")
    if not bool((torch.isfinite(tensors["schedule_amax"]) & (tensors["schedule_amax"] >= 0)).all()):
        raise _broken(path, "schedule_amax holds a value that is negative or not finite")
    layers = {}
    for index, row in enumerate(rows):
        histograms = {name: tensors[name][index].clone() for name in (*_HISTOGRAMS, "schedule_amax")}
        layer = LayerStatistics(**dict(zip(_FIELDS, row[1:7], strict=True)), amax=float(row[7]), **histograms)
        if int(layer.element_magnitude.sum()) != layer.elements or int(layer.call_amax.sum()) > layer.calls:
            raise _broken(path, f"the counts of layer {row[0]} contradict each other")
        layers[row[0]] = layer
    return Calibration(
        layers=layers,
        unobserved=described["unobserved"],
        samplings=described["samplings"],
        images=described["images"],
        steps=described["steps"],
        schedule=tensors["schedule"],
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


def _described(path: str | PathLike[str], metadata: dict[str, str]) -> dict[str, Any]:
    """The checked JSON part of the header."""
    if metadata.get("format") != FORMAT:
        raise _broken(path, "it is a safetensors file of another kind")
    if metadata.get("version") != VERSION:
        raise _broken(
            path, f"its version is {metadata.get('version', '')[:40]!r} and this nvfp4-studio reads {VERSION!r}"
        )
    try:
        described = json.loads(metadata.get("calibration", ""))
    except (ValueError, RecursionError) as error:
        raise _broken(path, "its description is no JSON") from error
    if not isinstance(described, dict):
        raise _broken(path, "its description is no JSON object")
    for name in ("samplings", "images", "steps"):
        if not _is_count(described.get(name)):
            raise _broken(path, f"{name} is {described.get(name)!r:.40}, no count")
    unobserved, layers = described.get("unobserved"), described.get("layers")
    if not isinstance(unobserved, dict) or not all(is_name(key) and is_name(why) for key, why in unobserved.items()):
        raise _broken(path, "the list of unobserved layers is not names with reasons")
    if not isinstance(layers, list) or len(layers) > MAX_LAYERS:
        raise _broken(path, f"the layers are no list of at most {MAX_LAYERS}")
    for row in layers:
        if not (isinstance(row, list) and len(row) == 8 and is_name(row[0]) and all(map(_is_count, row[1:7]))):
            raise _broken(path, f"the layer entry {row!r:.60} is not a name with six counts and an amax")
        if not isinstance(row[7], (int, float)) or isinstance(row[7], bool) or not 0 <= row[7] <= MAX_AMAX:
            raise _broken(path, f"the amax of layer {row[0]} is {row[7]!r:.40}")
    if len({row[0] for row in layers}) != len(layers):
        raise _broken(path, "a layer is listed twice")
    return described


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT


def is_name(value: object) -> bool:
    """Printable, so that showing a name can do nothing to a terminal."""
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and value.isprintable()


def _broken(path: str | PathLike[str], why: str) -> CalibrationError:
    return CalibrationError(f"{path} is not a usable calibration: {why}.")
