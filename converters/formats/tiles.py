"""The order in which cuBLAS wants block scales: tiles of 128 rows and 4 columns.

Within a tile row r lies at 16 · (r mod 32) + 4 · (r div 32), so that 32 lines of 16 bytes hold it
(https://docs.nvidia.com/cuda/cublas/index.html#d-block-scaling-factors-layout). The functions are our own,
and tested against comfy-kitchen's, because importing that package takes longer than many a conversion.
"""

from __future__ import annotations

import torch

ROWS = 128
COLUMNS = 4
LINES = 32


def roundup(number: int, multiple: int) -> int:
    """The next multiple."""
    return -(-number // multiple) * multiple


def tiled(scales: torch.Tensor) -> torch.Tensor:
    """Bytes uint8 [R, C] in tiles, padded with zeros: uint8 [⌈R/128⌉·128, ⌈C/4⌉·4]."""
    rows, columns = roundup(scales.shape[0], ROWS), roundup(scales.shape[1], COLUMNS)
    padded = torch.nn.functional.pad(scales, (0, columns - scales.shape[1], 0, rows - scales.shape[0]))
    tiles = padded.view(rows // ROWS, ROWS // LINES, LINES, columns // COLUMNS, COLUMNS)
    return tiles.permute(0, 3, 2, 1, 4).reshape(rows, columns)


def untiled(scales: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The inverse: uint8 [rows, columns] without the padding."""
    down, across = -(-rows // ROWS), -(-columns // COLUMNS)
    tiles = scales.reshape(down, across, LINES, ROWS // LINES, COLUMNS)
    return tiles.permute(0, 3, 2, 1, 4).reshape(down * ROWS, across * COLUMNS)[:rows, :columns]
