"""A file's fidelity in words and tables, for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Callable

from ..calibration import Section
from ..calibration.page import counted
from .fidelity import OUTPUTS, Fidelity, LayerFidelity, grade_words

WORST_SHOWN = 5
NO_WORST = 1e-12


def fidelity_sections(found: Fidelity) -> list[Section]:
    """Means and grade, layer types, worst layers by each figure, coverage."""
    what = "outputs on rows kept while calibrating" if found.of == OUTPUTS else "weights alone"
    lines = [
        f"{found.quantized} of {found.linear} Linear layers quantized; {what}, {len(found.layers)} differ: mean relative RMSE "
        f"{found.mean(lambda layer: layer.rel_rmse):.2%}, cosine {found.mean(lambda layer: layer.cosine):.4f}, "
        f"MSE {found.mean(lambda layer: layer.mse):.3g}, RMSE {found.mean(lambda layer: layer.rmse):.3g}.",
        f"Size: {found.source_bytes / 1e6:.2f} -> {found.output_bytes / 1e6:.2f} MB "
        f"({found.output_bytes / max(1, found.source_bytes):.3f}).",
        f"Grade {found.grade()}, by the mean relative RMSE: {grade_words(found.of)}.",
    ]
    if found.unmeasured:
        lines.append(f"{counted(len(found.unmeasured), 'quantized layer')} without rows, first {found.unmeasured[0]}.")
    return [Section("Fidelity", tuple(lines)), _kinds(found), *_worst(found), _coverage(found)]


def _kinds(found: Fidelity) -> Section:
    rows = []
    for kind, layers in found.kinds().items():
        largest = [layer.largest for layer in layers if layer.largest is not None]
        rows.append(
            (
                kind,
                ", ".join(dict.fromkeys(layer.format for layer in layers)),
                str(len(layers)),
                f"{found.mean(lambda layer: layer.mse, layers):.3g}",
                f"{found.mean(lambda layer: layer.rmse, layers):.3g}",
                f"{max(largest):.3g}" if largest else "-",
                f"{found.mean(lambda layer: layer.rel_rmse, layers):.2%}",
                f"{found.mean(lambda layer: layer.cosine, layers):.5f}",
            )
        )
    head = ("type", "format", "layers", "MSE", "RMSE", "largest", "rel. RMSE", "cosine")
    return Section("By layer type", (), head, tuple(rows))


def _worst(found: Fidelity) -> list[Section]:
    """One table for each figure by which layers are ranked."""
    figures: list[tuple[str, Callable[[LayerFidelity], float], Callable[[float], str]]] = [
        ("relative RMSE", lambda layer: layer.rel_rmse, lambda value: f"{value:.2%}"),
        ("cosine", lambda layer: 1 - layer.cosine, lambda value: f"{1 - value:.5f}"),
        ("RMSE", lambda layer: layer.rmse, lambda value: f"{value:.3g}"),
    ]
    if found.of == OUTPUTS:
        figures.append(("largest error", lambda layer: layer.largest or 0.0, lambda value: f"{value:.3g}"))
    sections = []
    for title, value, shown in figures:
        layers = sorted(found.layers, key=lambda layer: -value(layer))[:WORST_SHOWN]
        rows = tuple((layer.name, layer.format, shown(value(layer))) for layer in layers if value(layer) > NO_WORST)
        if rows:
            sections.append(Section(f"Worst by {title}", (), ("layer", "format", title), rows))
    return sections


def _coverage(found: Fidelity) -> Section:
    rows = tuple((kind.kind, str(kind.quantized), str(kind.layers)) for kind in found.coverage)
    return Section("Coverage", (), ("type", "quantized", "Linear layers"), rows)
