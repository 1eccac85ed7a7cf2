"""The map of blocks and layer types: every layer has its cell, in the colour of its format or error."""

from __future__ import annotations

from collections import Counter

from nvfp4_studio.converters.plots.block_map import FORMAT_COLOURS, block_map, error_map, format_map, layer_table
from nvfp4_studio.converters.plots.canvas import WIDTH

FLUX = [f"model.diffusion_model.double_blocks.{i}.img_attn.qkv" for i in range(3)] + [
    f"model.diffusion_model.single_blocks.{i}.linear1" for i in range(6)
]


def colours(picture) -> Counter[tuple[int, int, int]]:
    return Counter(picture.get_flattened_data() if hasattr(picture, "get_flattened_data") else picture.getdata())


def test_cells_have_the_colours_of_their_formats_by_number() -> None:
    found = colours(format_map("x", [(name, "nvfp4" if "single" in name else "mxfp8") for name in FLUX]))
    nvfp4, mxfp8 = found[FORMAT_COLOURS["nvfp4"]], found[FORMAT_COLOURS["mxfp8"]]
    assert 1.9 < nvfp4 / mxfp8 < 2.1
    assert FORMAT_COLOURS["float8_e4m3fn"] not in found


def test_a_bad_layer_is_seen_among_good_ones() -> None:
    good = colours(error_map("x", [(name, 21.0) for name in FLUX]))
    bad = colours(error_map("x", [(name, 4.0 if "double_blocks.1" in name else 21.0) for name in FLUX]))
    assert bad[(122, 10, 30)] > good[(122, 10, 30)] + 500


def test_models_without_blocks_or_layers_are_drawn() -> None:
    assert block_map([]).height > 0
    assert block_map([("img_in", "bfloat16", None), ("blocks.0.mlp.2", "of the future", 20.0)]).width == 1100


def test_a_model_of_60_blocks_fits_the_page() -> None:
    names = [f"transformer_blocks.{i}.attn.to_{x}" for i in range(60) for x in "qkv"]
    assert block_map([(name, "nvfp4", 20.0) for name in names]).width == 1100


def test_every_number_of_blocks_is_drawn_and_what_is_none_is_counted() -> None:
    assert block_map([("blocks.999.q", "nvfp4", 20.0), ("blocks.0.q", "nvfp4", 20.0)]).width == WIDTH
    _, columns, outside = layer_table([("blocks.1000.q", 1), ("blocks.2.q", 2)])
    assert (columns, outside) == (["0", "1", "2"], 1)


def test_a_number_is_a_blocks_as_in_the_types_of_a_calibration() -> None:
    names = [
        "blocks.0.mlp.0",
        "blocks.1.mlp.0",
        "blocks.1.only.here",
        "embedder.4.proj",
        "out.9" * 40 + "." + "9" * 5000,
    ]
    rows, columns, outside = layer_table([(name, 1) for name in names])
    assert [(label, cells) for label, cells in rows] == [("blocks.N.mlp.0", [1, 1]), ("blocks.N.only.here", [None, 1])]
    assert (columns, outside) == (["0", "1"], 2)
