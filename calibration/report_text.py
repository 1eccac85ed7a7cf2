"""The words and tables of a calibration's report and of a comparison."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from .comparison import Comparison, LayerChange, factor
from .coverage import SCHEDULE_BINS, Coverage
from .page import Section, counted, decibels, number, share
from .report import OUTLIER, CalibrationReport, LayerReport
from .scales import DEFAULT_POLICY, POLICIES
from .statistics import PASSES

SHOWN = 12
"""Rows of a list of layers; the JSON has all of them."""


def report_sections(report: CalibrationReport) -> list[Section]:
    """A calibration's report from the most to the least general."""
    return [
        _overview(report),
        _kinds(report),
        *_policies(report),
        *_layer_table("Largest inputs", [], report.largest()),
        *_layer_table(
            "Outliers", [f"Layers from {OUTLIER:g} times the median amax of their type on."], report.outliers()
        ),
        *_schedule(report),
        *_unobserved(report),
    ]


def comparison_sections(comparison: Comparison) -> list[Section]:
    """A comparison: the verdict, then types and layers."""
    names = (comparison.first, comparison.second)
    sections = [
        Section("Result", tuple(comparison.verdict())),
        Section(
            "By layer type",
            (),
            ("layer type", "layers", *names, "median ratio", "smallest", "largest", "largest in"),
            tuple(
                (kind.kind, str(kind.layers), *map(number, (kind.first, kind.second)),
                 *map(factor, (kind.ratio, kind.smallest, kind.largest)), kind.largest_in)
                for kind in sorted(comparison.kinds, key=lambda kind: -kind.ratio)
            ),
        ),
        _changes(f"Most changed of {len(comparison.layers)} layers", comparison, comparison.movers()),
    ]  # fmt: skip
    if comparison.harmed():
        title = f"Most harmed by scales from {comparison.first}"
        sections.append(_changes(title, comparison, comparison.harmed()))
    return sections


def _overview(report: CalibrationReport) -> Section:
    coverage = report.coverage
    known = report.prompts.in_words(report.samplings)
    prompts = f"; prompts: {known}" if known else ""
    lines = [
        report.summary + ".",
        f"Layers: {coverage.observed} of {coverage.total} observed; samplings: {report.samplings}{prompts}.",
    ]
    if report.steps:
        lines.append(schedule_line(coverage))
    lines += [f"NaN or infinite: {count} rows in {name}." for name, count in report.nonfinite.items()]
    lines += [
        f"{what} in {count} of {report.samplings} samplings."
        for what, count in report.adaptations.items()
        if what != "none"
    ]
    return Section("Calibration", (*lines, *report.advice()))


def schedule_line(coverage: Coverage) -> str:
    """How much of the noise schedule was seen."""
    missing = coverage.missing_ranges()
    return f"Noise schedule: {coverage.schedule_seen:.0%} seen" + (
        f", nothing at noise levels {missing} (0 = clean, 1 = noise)." if missing else "."
    )


def _kinds(report: CalibrationReport) -> Section:
    clipping = [policy for policy in POLICIES if any(kind.clip_rates[policy] for kind in report.kinds)]
    head = (
        "layer type", "layers", "median amax", "largest", "spread", f"range ({DEFAULT_POLICY})", "SQNR", "worst",
        *(f"clips {policy}" for policy in clipping),
    )  # fmt: skip
    rows = tuple(
        (
            kind.kind,
            f"{len(kind.layers)} of {len(kind.layers) + kind.unobserved}" if kind.unobserved else str(len(kind.layers)),
            number(kind.median),
            number(kind.largest),
            number(kind.spread),
            "dynamic" if kind.ranges is None else _span(*kind.ranges),
            decibels(kind.sqnr_db),
            decibels(kind.worst_sqnr_db),
            *(share(kind.clip_rates[policy]) for policy in clipping),
        )
        for kind in sorted(report.kinds, key=lambda kind: -kind.largest)
    )
    lines = (
        "Spread: largest over smallest amax of the type. Range: smallest and largest stored range of its layers. "
        "SQNR: of the input in NVFP4, predicted, median and worst layer. Clips: largest share of elements above the "
        "range, of any layer.",
    )
    return Section("By layer type", lines if rows else (), head, rows)


def _policies(report: CalibrationReport) -> list[Section]:
    rows = []
    for policy, meaning in POLICIES.items():
        found = [(layer, effect) for layer in report.layers if (effect := layer.policies[policy]) is not None]
        rated = sorted(((effect.sqnr_db, layer.name) for layer, effect in found if effect.sqnr_db is not None))
        rows.append(
            (
                policy + (" (default)" if policy == DEFAULT_POLICY else ""),
                f"{len(found)} of {len(report.layers)}",
                str(sum(bool(effect.clip_rate) for _, effect in found)),
                share(max((effect.clip_rate for _, effect in found if effect.clip_rate is not None), default=None)),
                share(max((effect.lost_rate for _, effect in found if effect.lost_rate is not None), default=None)),
                decibels(rated[len(rated) // 2][0] if rated else None),
                decibels(rated[0][0] if rated else None),
                rated[0][1] if rated else "",
                meaning.partition(":")[0].rstrip("."),
            )
        )
    head = ("policy", "can serve", "clips in", "clip rate up to", "blocks lost up to", "median SQNR", "worst SQNR")
    lines = (
        "Predicted for NVFP4 inputs on what was calibrated; calls larger than that clip earlier. Blocks lost: share of "
        "blocks of 16 channels that would become zero.",
    )
    return (
        [Section("What each policy would do", lines, (*head, "worst in", "what it is"), tuple(rows))]
        if report.layers
        else []
    )


def _layer_table(title: str, lines: Sequence[str], layers: Sequence[LayerReport]) -> list[Section]:
    if not layers:
        return []
    head = (
        "layer",
        "amax",
        "typical call",
        "times its type",
        "peak at",
        "range",
        "clips",
        "blocks lost",
        "SQNR",
        "calls",
        "rows",
        "elements",
    )
    rows = tuple(
        (
            layer.name,
            number(layer.amax),
            number(layer.typical_call),
            number(layer.ratio, 3),
            _peak(layer.peak),
            "dynamic" if layer.chosen.amax is None else number(layer.chosen.amax),
            share(layer.chosen.clip_rate),
            share(layer.chosen.lost_rate),
            decibels(layer.chosen.sqnr_db),
            str(layer.calls),
            str(layer.rows),
            str(layer.elements),
        )
        for layer in layers[:SHOWN]
    )
    more = [f"The first {SHOWN} of {len(layers)}."] if len(layers) > SHOWN else []
    return [Section(title, (*lines, *more), head, rows)]


def _schedule(report: CalibrationReport) -> list[Section]:
    if not report.steps:
        return []
    rows = []
    for place in reversed(range(SCHEDULE_BINS)):
        peaks = sum(layer.peak is not None and layer.peak[1] == place for layer in report.layers)
        seen = sum(any(row[place] > 0 for row in layer.schedule_amax) for layer in report.layers)
        counts = [str(row[place]) for row in report.schedule]
        rows.append((noise(place), *counts, f"{seen} of {len(report.layers)}", str(peaks)))
    lines = [
        "Evaluations of the model by pass, layers that ran, and layers whose largest input was there; 1 = full noise."
    ]
    partly = report.partly_seen()
    if partly:
        lines.append(
            f"{counted(len(partly), 'layer')} did not run at every noise level that was sampled, first {partly[0].name}."
        )
    return [Section("Coverage by noise level", tuple(lines), ("noise level", *PASSES, "layers", "peaks"), tuple(rows))]


def _unobserved(report: CalibrationReport) -> list[Section]:
    if not report.unobserved:
        return []
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, reason in report.unobserved.items():
        by_reason[reason].append(name)
    rows = tuple(
        (reason, str(len(names)), ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else ""))
        for reason, names in by_reason.items()
    )
    return [Section("Layers not observed", (), ("reason", "layers", "names"), rows)]


def _changes(title: str, comparison: Comparison, layers: Sequence[LayerChange]) -> Section:
    head = (
        "layer", comparison.first, comparison.second, "ratio", f"range from {comparison.first}", "would clip",
        "SQNR with it", "with its own",
    )  # fmt: skip
    rows = tuple(
        (
            layer.name,
            number(layer.first),
            number(layer.second),
            factor(layer.ratio),
            "dynamic" if layer.reused is None else number(layer.reused),
            share(layer.clip_rate),
            decibels(layer.sqnr_db),
            decibels(layer.own_sqnr_db),
        )
        for layer in layers[:SHOWN]
    )
    return Section(title, (), head, rows)


def noise(place: int) -> str:
    """A noise bin as a range of levels: "0.94-1.00"."""
    return f"{place / SCHEDULE_BINS:.2f}-{(place + 1) / SCHEDULE_BINS:.2f}"


def _peak(peak: tuple[str, int] | None) -> str:
    return "-" if peak is None else f"{noise(peak[1])} {peak[0]}"


def _span(low: float, high: float) -> str:
    return number(low) if number(low) == number(high) else f"{number(low)} … {number(high)}"
