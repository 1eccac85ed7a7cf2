"""Import and export of comfy-dit-quantizer's two JSON forms.

flat      {"<layer>": amax, …}
detailed  {"layers": {"<layer>_bin<k>": {"amax", "p99_9", "std", "min", "max", "count"}, …},
           "sigma_ranges": {…}}, where k = 0 … 5 cuts the noise schedule into six, 0 the noisiest.

Both hold less than a calibration file. What is imported has the amax of calls and nothing of blocks or
elements, so the element policies and the guard against freak values are not available for it; shapes and
the number of model evaluations are unknown.
"""

from __future__ import annotations

import json
import math
import re
from os import PathLike
from pathlib import Path

import torch

from .coverage import SCHEDULE_BINS
from .errors import CalibrationError
from .files import write_atomically
from .histogram import bin_index, lower_edges, percentile, upper_edges
from .prefixes import shared_prefix
from .reading import MAX_COUNT, MAX_LAYERS, is_name
from .statistics import PASSES, Calibration, LayerStatistics, empty_histogram
from .store import MAX_AMAX

FORMS = ("flat", "detailed")
NOISE_BINS = 6
MAX_JSON_BYTES = 1 << 27
_BIN_KEY = re.compile(r"(?P<layer>.+)_bin(?P<bin>[0-5])", re.DOTALL)


def import_json(path: str | PathLike[str]) -> Calibration:
    """A calibration from either form, recognised by its content.

    Every noise bin counts towards a layer's amax. A key prefix that all layers share (see ``prefixes``) is removed:
    calibrations name layers as the diffusion model does. Raises CalibrationError.
    """
    layers: dict[str, LayerStatistics] = {}
    for name, noise_bin, amax, calls in _entries(path, _read(path)):
        found = _imported(amax, calls, noise_bin)
        layers[name] = layers[name].merged(found) if name in layers else found
    if not layers:
        raise CalibrationError(f"{path} holds no layer.")
    prefix = shared_prefix(layers)
    return Calibration(layers={name[len(prefix) :]: layer for name, layer in sorted(layers.items())})


def export_json(calibration: Calibration, path: str | PathLike[str], form: str = "flat") -> None:
    """Write the amax of every layer in one of FORMS, replacing the file atomically.

    The detailed form has one entry per layer and noise bin seen; "std" (about zero) and "p99_9" are of all
    elements, taken from the histogram, "min" is the lower edge of its first bin in use, and "count" is the
    layer's calls in all bins. Layers without a known noise level are written as bin 0. Raises
    CalibrationError for another form, an empty calibration or a file that cannot be written.
    """
    if form not in FORMS:
        raise CalibrationError(f"Unknown form {form!r}; choose one of {', '.join(FORMS)}.")
    if not calibration.layers:
        raise CalibrationError("The calibration holds no layer, so there is nothing to export.")
    content: dict[str, object] = {name: layer.amax for name, layer in sorted(calibration.layers.items())}
    if form == "detailed":
        entries: dict[str, object] = {}
        for name, layer in sorted(calibration.layers.items()):
            entries.update(_detailed(name, layer))
        content = {"layers": entries, "sigma_ranges": {"nvfp4-studio": {"min": 0.0, "max": 1.0}}}
    try:
        write_atomically(Path(path), json.dumps(content, indent=2, allow_nan=False).encode())
    except OSError as error:
        raise CalibrationError(f"{path} cannot be written: {error.strerror or error}.") from error


def _read(path: str | PathLike[str]) -> dict[str, object]:
    try:
        if Path(path).stat().st_size > MAX_JSON_BYTES:
            raise CalibrationError(f"{path} is larger than {MAX_JSON_BYTES} bytes, no calibration in JSON.")
        content = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise CalibrationError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise CalibrationError(f"{path} is no JSON file.") from error
    if not isinstance(content, dict):
        raise CalibrationError(f"{path} holds no JSON object, but a calibration in JSON is one.")
    return content


def _entries(path: str | PathLike[str], content: dict[str, object]) -> list[tuple[str, int | None, float, int]]:
    """(layer, noise bin or None, amax, calls) of either form, checked."""
    detailed = content.get("layers")
    source = detailed if isinstance(detailed, dict) else content
    if len(source) > MAX_LAYERS * NOISE_BINS:
        raise CalibrationError(f"{path} lists {len(source)} entries, too many for a model.")
    entries: list[tuple[str, int | None, float, int]] = []
    for key, value in source.items():
        name, noise_bin, calls = str(key), None, 1
        if source is detailed:
            match = _BIN_KEY.fullmatch(name)
            if match is None or not isinstance(value, dict):
                raise CalibrationError(f"{path}: the entry {name!r:.80} is not of the form <layer>_bin<0-5>: {{…}}.")
            name, noise_bin = match["layer"], int(match["bin"])
            calls, value = value.get("count", 1), value.get("amax")
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= MAX_AMAX:
            raise CalibrationError(f"{path}: the amax of {name!r:.80} is {value!r:.40}, no float32 from 0 on.")
        if not isinstance(calls, int) or isinstance(calls, bool) or not 0 < calls <= MAX_COUNT // NOISE_BINS:
            raise CalibrationError(f"{path}: the count of {name!r:.80} is {calls!r:.40}, no number of calls.")
        if not is_name(name):
            raise CalibrationError(f"{path}: {name!r:.80} ({len(name)} characters) is no layer's name.")
        entries.append((name, noise_bin, float(torch.tensor(value, dtype=torch.float32)), calls))
    return entries


def _imported(amax: float, calls: int, noise_bin: int | None) -> LayerStatistics:
    call_amax = empty_histogram()
    call_amax[bin_index(torch.tensor(amax))] = calls
    schedule_amax = torch.zeros(len(PASSES), SCHEDULE_BINS)
    if noise_bin is not None:
        schedule_amax[0, [index for index in range(SCHEDULE_BINS) if _noise_bin(index) == noise_bin]] = amax
    return LayerStatistics(
        in_features=0,
        out_features=0,
        calls=calls,
        rows=0,
        elements=0,
        nonfinite=0,
        amax=amax,
        call_amax=call_amax,
        block_amax=empty_histogram(),
        element_magnitude=empty_histogram(),
        schedule_amax=schedule_amax,
    )


def _detailed(name: str, layer: LayerStatistics) -> dict[str, object]:
    by_bin: dict[int, float] = {}
    for index, amax in enumerate(layer.schedule_amax.amax(0).tolist()):
        if amax > 0:
            by_bin[_noise_bin(index)] = max(amax, by_bin.get(_noise_bin(index), 0.0))
    counts = layer.element_magnitude.to(torch.float64)
    total = max(1.0, float(counts.sum()))
    middle = (lower_edges() + upper_edges()) / 2
    middle[0] = 0.0
    used = counts.nonzero()
    shared = {
        "p99_9": percentile(layer.element_magnitude, 99.9, maximum=layer.amax) if len(used) else layer.amax,
        "std": math.sqrt(float((counts * middle * middle).sum()) / total),
        "min": float(lower_edges()[used[0, 0]]) if len(used) else 0.0,
    }
    return {
        f"{name}_bin{noise_bin}": {
            "amax": amax,
            **shared,
            "p99_9": min(shared["p99_9"], amax),
            "max": amax,
            "count": max(1, layer.calls),
        }
        for noise_bin, amax in sorted((by_bin or {0: layer.amax}).items())
    }


def _noise_bin(index: int) -> int:
    """The detailed form's bin (0 = noisiest of six) that holds the middle of one of our sixteen."""
    return int((1.0 - (index + 0.5) / SCHEDULE_BINS) * NOISE_BINS)
