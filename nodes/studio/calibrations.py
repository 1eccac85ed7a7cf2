"""Step 2: calibrations, what they hold, and whether it is enough."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ... import __version__
from ...calibration import DETAILS, Calibration, calibration_report, load, merge_files, save
from ...converters.plots import calibration_plot, layer_histogram
from ...converters.sensitivity import beside, keep_beside, merged_influence
from .. import host
from ..guard import Refused
from ..library import CALIBRATIONS
from .fields import name_in, names_in, optional_name
from .stored import Stored
from .told import by_id

MAX_MERGED = 64
NAMED = 3
opened = Stored(CALIBRATIONS, load)
"""Statistics of 600 layers take 9 MB; what may have gigabytes stays on the disk until it is asked for."""


def listed(_: Mapping[str, Any]) -> dict[str, Any]:
    """``{"version": the pack's, "calibrations": [{"name", "bytes", "modified_ns", "influence"}]}``.

    ``influence`` says whether it was measured how much of each layer's error reaches the output.
    """
    entries = [
        {
            "name": name,
            "bytes": stat.st_size,
            "modified_ns": stat.st_mtime_ns,
            "influence": influence_of(CALIBRATIONS.path(name)) is not None,
        }
        for name, stat in CALIBRATIONS.stored()
    ]
    return {"version": __version__, "calibrations": entries}


def influence_of(calibration: Path) -> Path | None:
    """The influence measured with a calibration; None where there is none, or a link out of the folders."""
    path = beside(calibration)
    return path if path.is_file() and CALIBRATIONS.inside(path) else None


def described(body: Mapping[str, Any]) -> dict[str, Any]:
    """``{"name"}`` -> how much was sampled, what was seen of layers and schedule, and what to add."""
    name = name_in(body, "name")
    calibration = opened(name)
    coverage, convergence = calibration.coverage(), calibration.convergence()
    stat = CALIBRATIONS.exchangeable(name).stat()
    return {
        "name": name,
        "bytes": stat.st_size,
        "modified_ns": stat.st_mtime_ns,
        "detail": _detail(calibration),
        "summary": calibration.summary(),
        "largest": _largest(calibration),
        "samplings": calibration.samplings,
        "images": calibration.images,
        "calls": calibration.steps,
        "layers_observed": coverage.observed,
        "layers_total": coverage.total,
        "unobserved": [{"module": module, "reason": reason} for module, reason in calibration.unobserved.items()],
        "schedule": calibration.schedule.sum(0).tolist(),
        "schedule_seen": coverage.schedule_seen,
        "missing": coverage.missing_ranges(),
        "recommendations": list(coverage.recommendations),
        "convergence": {"largest_change": convergence.change, "layer": convergence.layer, "advice": convergence.advice},
        "enough": calibration.enough(),
        "warnings": _warnings(calibration),
    }


def plot(query: Mapping[str, Any]) -> bytes:
    """``?name=``: the report's page of plots as PNG; with ``&layer=`` one layer's histogram, scales and clip points."""
    name, layer = name_in(query, "name"), optional_name(query, "layer")
    calibration = opened(name)
    report = calibration_report(calibration, name)
    if layer is None:
        return png(calibration_plot(calibration, report))
    picture = layer_histogram(calibration, report, layer)
    if picture is None:
        raise Refused(404, f"The calibration {name!r} has no histogram of a layer {layer[:200]!r}.")
    return png(picture)


def merged(body: Mapping[str, Any]) -> dict[str, Any]:
    """``{"names", "into"}`` -> ``{"name"}``: one file of several, in a new file or in one of the several.

    The influence that lies beside them is added up too.
    """
    sources, into = names_in(body, "names", MAX_MERGED), name_in(body, "into")
    paths = {name: CALIBRATIONS.exchangeable(name) for name in sources}
    # By the files themselves: a name may be written in several ways, and a link is a second name.
    if len({path.resolve() for path in paths.values()}) != len(sources) or len(sources) < 2:
        raise Refused(400, "Choose two or more different calibrations to merge.")
    target = CALIBRATIONS.writable(into)
    if target.exists() and target not in paths.values():
        raise Refused(
            400, f"There is a calibration {into!r} already: choose another name, or merge into one of the chosen."
        )
    with by_id({**{path: name for name, path in paths.items()}, target: into}):
        total = merge_files(paths.values())
        probes = merged_influence(path for path in paths.values() if influence_of(path) is not None)
        save(total, target)
        keep_beside(probes, target)
    host.refresh_lists()
    return {"name": CALIBRATIONS.name_of(target)}


def deleted(body: Mapping[str, Any]) -> dict[str, Any]:
    """``{"name": "my-model"}`` -> ``{"deleted": "my-model"}``."""
    name = name_in(body, "name")
    path = CALIBRATIONS.exchangeable(name)
    beside(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    opened.forget_old()
    host.refresh_lists()
    return {"deleted": name}


def png(picture: Any) -> bytes:
    """A picture as a PNG file."""
    data = io.BytesIO()
    picture.save(data, format="PNG")
    return data.getvalue()


def _largest(calibration: Calibration) -> dict[str, Any] | None:
    """The layer with the largest input, and how large it is; None before anything was seen."""
    if not calibration.layers:
        return None
    layer = max(calibration.layers, key=lambda name: calibration.layers[name].amax)
    return {"layer": layer, "amax": calibration.layers[layer].amax}


def _detail(calibration: Calibration) -> str:
    """The level of detail that at least one layer has; levels include those before them."""
    layers = calibration.layers.values()
    has = {
        "channels": any(layer.channels is not None for layer in layers),
        "curvature": any(layer.curvature is not None for layer in layers),
    }
    return next((level for level in reversed(DETAILS) if has.get(level)), DETAILS[0])


def _warnings(calibration: Calibration) -> list[str]:
    """What is wrong with what was seen, a sentence each."""
    found = []
    bad = calibration.nonfinite_layers()
    if bad:
        named = ", ".join(f"{name} ({count})" for name, count in list(bad.items())[:NAMED])
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        found.append(f"NaN or infinite inputs, left out: {named}{more}.")
    found.extend(
        f"{what} in {samplings} of {calibration.samplings} samplings."
        for what, samplings in calibration.adapted().items()
    )
    return found
