"""The report: JSON for programs, Markdown for people, pictures that can be opened."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from PIL import Image

from nvfp4_studio.calibration.kinds import kinds
from nvfp4_studio.converters import convert, report_stem
from nvfp4_studio.converters.plots import MAX_ROWS, bar_chart

Checkpoint = Callable[..., Path]


def test_every_layer_with_format_reason_and_error(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source, target = checkpoint("scaled"), tmp_path / "out (v1).safetensors"
    report = convert(source, target)
    paths = report.write(report_stem(target))
    assert [path.name for path in paths] == [
        "out (v1).report.json",
        "out (v1).report.md",
        "out (v1).report-size.png",
        "out (v1).report-map.png",
        "out (v1).report-error.png",
    ]
    data = json.loads(paths[0].read_text())
    layers = {layer["name"]: layer for layer in data["plan"]["layers"]}
    assert len(layers) == 9
    qkv, mod = layers["double_blocks.0.img_attn.qkv"], layers["double_blocks.0.img_mod.lin"]
    assert qkv["format"] == "nvfp4" and 20 < qkv["error"]["sqnr_db"] < 23 and qkv["reason"]
    assert mod["error"] == {"identical": True, "sqnr_db": None, "rel_rmse": 0.0, "cosine": 1.0}
    assert data["summary"]["output_bytes"] == target.stat().st_size
    assert data["summary"]["source_bytes"] == source.stat().st_size
    assert data["summary"]["worst_sqnr_db"] == min(
        layer["error"]["sqnr_db"] for layer in layers.values() if layer["error"] and layer["error"]["sqnr_db"]
    )
    modules = [layer["module"] for layer in data["plan"]["layers"]]
    assert {group["group"] for group in data["groups"]} <= set(kinds(modules).values())
    page = paths[1].read_text()
    assert all(f"| {name} |" in page for name in layers)
    shown = re.findall(r"!\[\w+\]\(([^\s()]+)\)", page)
    assert [unquote(link) for link in shown] == [path.name for path in paths[2:]]
    for path in paths[2:]:
        with Image.open(path) as image:
            assert image.width >= 800 and len(image.getcolors(100_000)) > 2


def test_a_chart_of_many_layers_is_thinned_to_its_extremes() -> None:
    items = [(f"layer {index}", float(index + 1), "nvfp4") for index in range(600)]
    assert bar_chart("t", items, "dB").height == bar_chart("t", items[: MAX_ROWS + 1], "dB").height
