"""The pictures of a calibration and of a comparison can be drawn of everything that a file may hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nvfp4_studio.calibration import (
    BINS,
    Calibration,
    LayerStatistics,
    calibration_report,
    compare,
    import_json,
    observe,
)
from nvfp4_studio.converters.plots import Picture, calibration_plot, comparison_plot
from nvfp4_studio.converters.plots.canvas import BLUE, LIGHT_BLUE, ORANGE, WIDTH, LogAxis, shortened, text_width
from nvfp4_studio.converters.plots.coverage import profile_plot, schedule_plot
from nvfp4_studio.converters.plots.histograms import (
    PANEL_HEIGHT,
    PANELS,
    POLICY_COLOURS,
    layer_histogram,
    layer_histograms,
)
from nvfp4_studio.converters.plots.ranges import depth_plot, range_plot
from nvfp4_studio.tests.unit.calibration.single_layer import LayerObserver


def calibration_of(blocks: int = 6, scale: float = 1.0) -> Calibration:
    generator = torch.Generator().manual_seed(0)
    layers = {}
    for name in [f"blocks.{block}.{layer}" for block in range(blocks) for layer in ("attn.to_q", "mlp.0", "mlp.2")]:
        observer = LayerObserver(torch.device("cpu"))
        measured = observe(scale * torch.randn(256, 32, generator=generator))
        assert measured is not None
        observer.observe(measured, torch.arange(16) == 12)
        layers[name] = observer.finish(32, 8)
    schedule = torch.zeros(2, 16, dtype=torch.int64)
    schedule[0, 12] = 4
    schedule[1, 13] = 2
    return Calibration(layers, {"final": "never ran"}, samplings=1, images=1, steps=4, schedule=schedule)


def zero_layer() -> LayerStatistics:
    """One call with a row of 16 zeros, as of text that a prompt has not."""
    once, elements = (torch.zeros(BINS, dtype=torch.int64) for _ in range(2))
    once[0], elements[0] = 1, 16
    return LayerStatistics(16, 16, 1, 1, 16, 0, 0.0, once, once, elements, torch.zeros(2, 16))


def colours(image: Picture) -> set[tuple[int, int, int]]:
    return {colour for _, colour in image.getcolors(1 << 20)}


def test_the_page_holds_all_pictures() -> None:
    calibration = calibration_of()
    report = calibration_report(calibration)
    parts = [range_plot(report), depth_plot(report), schedule_plot(report), profile_plot(report)]
    page = calibration_plot(calibration, report)
    assert page.width == WIDTH
    assert page.height > sum(part.height for part in parts if part) + PANEL_HEIGHT
    assert colours(page) >= {BLUE, ORANGE}


def test_both_passes_are_told_apart_in_the_schedule() -> None:
    image = schedule_plot(calibration_report(calibration_of()))
    columns = [image.getpixel((76 + int((place + 0.3) * (WIDTH - 92) / 16), 300)) for place in (12, 13)]
    assert columns == [BLUE, ORANGE]


def test_every_policy_has_a_colour_of_its_own_and_its_line() -> None:
    calibration = calibration_of()
    image = layer_histograms(calibration, calibration_report(calibration))
    assert image is not None and len(set(POLICY_COLOURS.values())) == len(POLICY_COLOURS)
    assert colours(image) >= set(POLICY_COLOURS.values())


def test_many_types_do_not_make_many_panels() -> None:
    calibration = calibration_of()
    (layer, *_) = calibration.layers.values()
    many = replace(calibration, layers={f"part{number}.linear": layer for number in range(90)})
    image = layer_histograms(many, calibration_report(many))
    assert image is not None and image.height < (PANELS // 2 + 1) * PANEL_HEIGHT
    assert range_plot(calibration_report(many)).height < 1200


@pytest.mark.parametrize(
    "calibration",
    [
        Calibration(),
        Calibration(unobserved={"a": "never ran"}),
        Calibration({"a": zero_layer()}, samplings=1, steps=1),
        Calibration({**calibration_of(1).layers, "zero": zero_layer()}),
        calibration_of(2, 1e-8),
        calibration_of(2, 1e20),
    ],
    ids=["empty", "nothing seen", "zeros", "no schedule", "tiny", "huge"],
)
def test_odd_calibrations_have_a_picture(calibration: Calibration) -> None:
    assert calibration_plot(calibration).width == WIDTH


def test_a_layer_that_saw_only_zeros_has_a_panel_that_says_so() -> None:
    calibration = Calibration({"zero": zero_layer()}, samplings=1, steps=1)
    panel = layer_histogram(calibration, calibration_report(calibration), "zero")
    assert panel is not None and panel.size == (WIDTH // 2, PANEL_HEIGHT)
    assert not colours(panel) & {BLUE, LIGHT_BLUE}, "nothing is drawn on an axis that zero is not on"


def test_an_imported_calibration_has_a_picture_of_its_ranges(tmp_path: Path) -> None:
    path = tmp_path / "flat.json"
    path.write_text(json.dumps({f"blocks.{block}.a": 1.0 + block for block in range(9)}))
    calibration = import_json(path)
    report = calibration_report(calibration)
    assert layer_histograms(calibration, report) is None and profile_plot(report) is None
    assert calibration_plot(calibration).height > 300


def test_a_comparison_has_both_colours() -> None:
    image = comparison_plot(compare(calibration_of(), calibration_of(scale=20)))
    assert image.width == WIDTH and colours(image) >= {BLUE, ORANGE}
    zeros = Calibration(dict.fromkeys(calibration_of().layers, zero_layer()))
    assert comparison_plot(compare(zeros, zeros)).width == WIDTH
    known = {name: replace(layer, in_features=0, out_features=0) for name, layer in zeros.layers.items()}
    assert comparison_plot(compare(Calibration(known), calibration_of())).width == WIDTH


def test_long_names_keep_both_ends() -> None:
    name = "transformer_blocks.17." + "very_long." * 20 + "to_add_out"
    short = shortened(name, 300)
    assert text_width(short) <= 300
    assert short.startswith("transformer_blocks.17") and short.endswith("to_add_out") and "..." in short


@pytest.mark.parametrize("values", [[1.0], [1.0, 1.1], [3.0, 700.0], [1e-12, 1e12], [0.0]])
def test_axes_have_ticks_that_do_not_touch(values: list[float]) -> None:
    axis = LogAxis.over(values, 100, 1000)
    places = [axis.x(value) for value in axis.ticks()]
    assert places == sorted(places) and all(100 <= place <= 1000 for place in places)
    assert all(right - left >= 55 for left, right in zip(places, places[1:], strict=False))
    assert len(places) >= 2
