"""How long a layer takes in each format, predicted from tables of kernel speeds."""

from __future__ import annotations

from .predict import OTHER_SHARE, kernel_of, layer_seconds
from .table import DEFAULT_TABLE, KERNELS, KernelTable, available_tables, load_table, table_from_json

__all__ = [
    "DEFAULT_TABLE",
    "KERNELS",
    "OTHER_SHARE",
    "KernelTable",
    "available_tables",
    "kernel_of",
    "layer_seconds",
    "load_table",
    "table_from_json",
]
