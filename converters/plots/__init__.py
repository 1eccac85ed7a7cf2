"""Pictures for people, drawn with Pillow, which ComfyUI brings along."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...calibration.lazy import exports

if TYPE_CHECKING:
    from .bars import MAX_ROWS, bar_chart, paired_bars
    from .block_map import block_map
    from .calibration import calibration_plot
    from .canvas import Picture, stacked
    from .comparison import comparison_plot
    from .histograms import layer_histogram

__all__ = [
    "MAX_ROWS",
    "Picture",
    "bar_chart",
    "block_map",
    "calibration_plot",
    "comparison_plot",
    "layer_histogram",
    "paired_bars",
    "stacked",
]

exports(
    __name__,
    {
        "bars": ("MAX_ROWS", "bar_chart", "paired_bars"),
        "block_map": ("block_map",),
        "calibration": ("calibration_plot",),
        "canvas": ("Picture", "stacked"),
        "comparison": ("comparison_plot",),
        "histograms": ("layer_histogram",),
    },
)
