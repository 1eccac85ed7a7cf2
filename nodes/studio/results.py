"""Step 5: files that this pack converted, their reports and plots, and the loader that opens each."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...calibration.errors import StudioError
from ...converters import SourceError, report_stem
from ...converters.containers.header import read_header
from ...converters.planning.passthrough import PROVENANCE_KEY
from ...converters.plots import block_map
from .. import checkpoints, earlier, host, names
from ..errors import HostError
from ..guard import Refused
from .anatomy import place
from .cache import FileCache
from .calibrations import png
from .fields import choice_in, name_in
from .plain import is_number
from .sources import loader

PLOTS = ("map", "size", "error", "activations")
MAX_PLOT_BYTES = 16 << 20
MAX_BLOCKS, MAX_KINDS, MAX_FORMATS = 400, 400, 30
"""So much a map that is drawn from a report may show, whatever the report says."""
_made: FileCache[Mapping[str, Any] | None] = FileCache(256)
_reports: FileCache[Mapping[str, Any]] = FileCache(4)
"""The report of a model of 840 layers takes a megabyte as text."""
_summaries: FileCache[dict[str, Any]] = FileCache(256)


def listed(_: Mapping[str, Any]) -> dict[str, Any]:
    """``{"results": [...]}``, the newest first."""
    found = [entry for identity, path in _converted() if (entry := _entry(identity, path)) is not None]
    return {"results": sorted(found, key=lambda entry: -entry["modified_ns"])}


def described(body: Mapping[str, Any]) -> dict[str, Any]:
    """``{"id"}`` -> the report, with the loader that opens the file. Without a report only what the header says.

    Layers of the diffusion model have the ``block`` and ``kind`` that a plan gives them.
    """
    identity = name_in(body, "id")
    path = _path(identity)
    report = _report(path) or _from_header(path)
    plan = {**report["plan"], "layers": [_placed(layer) for layer in report["plan"]["layers"]]}
    return {**report, "plan": plan, "id": identity, "loader": loader(identity), "plots": _plots(path)}


def plot(query: Mapping[str, Any]) -> bytes:
    """``?id=&name=``: one of ``PLOTS`` as PNG, drawn with the report or, the block map, from it."""
    path, name = _path(name_in(query, "id")), choice_in(query, "name", PLOTS, PLOTS[0])
    file = _plot_file(path, name)
    if _is_plain(file) and file.stat().st_size <= MAX_PLOT_BYTES:
        return file.read_bytes()
    report = _report(path)
    layers = _layers(report) if name == "map" and report is not None else []
    if not layers:
        raise Refused(404, f"There is no plot {name!r} beside {path.name}: convert again to have it drawn.")
    return png(block_map(layers))


def deleted(body: Mapping[str, Any]) -> dict[str, Any]:
    """``{"id"}`` -> ``{"deleted"}``: the converted file and what the conversion wrote beside it."""
    identity = name_in(body, "id")
    path = _path(identity)
    report = _report_file(path)
    path.unlink(missing_ok=True)
    for extra in (report, report.with_suffix(".md"), *(_plot_file(path, name) for name in PLOTS)):
        if not extra.is_dir():
            extra.unlink(missing_ok=True)
    host.refresh_lists()
    return {"deleted": identity}


def _converted() -> Iterable[tuple[str, Path]]:
    """Id and path of each converted file in ComfyUI's output folders whose name a page can ask for."""
    for key in checkpoints.FOLDERS:
        folder = checkpoints.output_folder(key)
        for path in sorted(folder.rglob(f"*{names.SUFFIX}")):
            identity = f"{key}/{path.relative_to(folder).as_posix()}"
            with contextlib.suppress(StudioError):
                yield identity, _path(identity)


def _path(identity: str) -> Path:
    """The file behind an id: one that this pack converted, in an output folder, and no link.

    Raises:
        HostError: there is none.
        InvalidName: the id leads elsewhere.
    """
    key, _, name = identity.partition("/")
    if key in checkpoints.FOLDERS and name.endswith(names.SUFFIX):
        path = names.file_below(checkpoints.output_folder(key), name, "id")
        if _is_plain(path) and _provenance(path):
            return path
    raise HostError(f"There is no converted file {identity[:200]!r}: refresh the list.")


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _provenance(path: Path) -> Mapping[str, Any] | None:
    """What the header says of how the file was made; None for a file that this pack did not convert."""

    def read() -> tuple[Mapping[str, Any] | None, Iterable[Path]]:
        try:
            made = json.loads(read_header(path).metadata.get(PROVENANCE_KEY, "null"))
        except (SourceError, ValueError, RecursionError):
            made = None
        return made if isinstance(made, dict) and "source" in made else None, (path,)

    return _made.get(path, read)


def _report(path: Path) -> Mapping[str, Any] | None:
    """The report beside a file, when it has the parts that a page shows."""
    data = _report_file(path)

    def read() -> tuple[Mapping[str, Any], Iterable[Path]]:
        return earlier.report_of(path) or {}, (path, data)

    report = _reports.get(path, read)
    plan, summary = report.get("plan"), report.get("summary")
    if not isinstance(summary, dict) or not isinstance(plan, dict) or not isinstance(plan.get("layers"), list):
        return None
    texts = {key: _texts(plan.get(key)) for key in ("warnings", "repairs")}
    layers = [layer for layer in plan["layers"] if _is_layer(layer)]
    return {**report, "plan": {**plan, **texts, "layers": layers}, "problems": _texts(report.get("problems"))}


def _placed(layer: Mapping[str, Any]) -> dict[str, Any]:
    module = layer.get("module")
    if layer.get("component") != "diffusion_model" or not isinstance(module, str):
        return dict(layer)
    block, kind = place(module)
    return {**layer, "block": block, "kind": kind}


def _texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _is_layer(layer: Any) -> bool:
    return isinstance(layer, dict) and all(isinstance(layer.get(key), str) for key in ("name", "format"))


def _from_header(path: Path) -> dict[str, Any]:
    made = _provenance(path) or {}
    return {
        "summary": {"output_bytes": path.stat().st_size},
        "plan": {
            "source": made.get("source"),
            "family": made.get("family"),
            "recipe": made.get("recipe"),
            "calibration": made.get("calibration"),
            "layers": [],
            "repairs": [],
            "warnings": [f"The report beside {path.name} is missing: convert again to have it written."],
        },
        "problems": [],
        "verified_tensors": 0,
    }


def _entry(identity: str, path: Path) -> dict[str, Any] | None:
    def read() -> tuple[dict[str, Any], Iterable[Path]]:
        report = _report(path) or _from_header(path)
        summary, plan = report["summary"], report["plan"]
        return {
            "source": plan.get("source"),
            "family": plan.get("family"),
            "recipe": plan.get("recipe"),
            "calibration": plan.get("calibration"),
            "formats": plan.get("formats"),
            "mean_sqnr_db": summary.get("mean_sqnr_db"),
            "worst_layer": summary.get("worst_layer"),
            "worst_sqnr_db": summary.get("worst_sqnr_db"),
        }, (path, _report_file(path))

    try:
        stat = path.stat()
        facts = {"id": identity, "bytes": stat.st_size, "modified_ns": stat.st_mtime_ns, "loader": loader(identity)}
        return {**facts, **_summaries.get(path, read)}
    except OSError:  # gone since it was listed
        return None


def _layers(report: Mapping[str, Any]) -> list[tuple[str, str, float | None]]:
    """Name, format and SQNR of each layer of the diffusion model; none where they are more than a map can show."""
    found = []
    for layer in report["plan"]["layers"]:
        if layer.get("component", "diffusion_model") != "diffusion_model":
            continue
        error = layer.get("error")
        db = error.get("sqnr_db") if isinstance(error, dict) else None
        found.append((str(layer.get("module") or layer["name"]), layer["format"], db if is_number(db) else None))
    places = [place(name) for name, _, _ in found]
    numbers = {block.rpartition(".")[2] for block, _ in places if block}
    kinds = {(block.rpartition(".")[0], kind) for block, kind in places if block}
    formats = {stored for _, stored, _ in found}
    few = all(len(number) < 5 and int(number) < MAX_BLOCKS for number in numbers)
    return found if few and len(kinds) <= MAX_KINDS and len(formats) <= MAX_FORMATS else []


def _plots(path: Path) -> list[str]:
    return [
        name for name in PLOTS if _is_plain(_plot_file(path, name)) or (name == "map" and _report(path) is not None)
    ]


def _report_file(path: Path) -> Path:
    stem = report_stem(path)
    return stem.with_name(stem.name + ".json")


def _plot_file(path: Path, name: str) -> Path:
    stem = report_stem(path)
    return stem.with_name(f"{stem.name}-{name}.png")
