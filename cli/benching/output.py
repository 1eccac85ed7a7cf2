"""The files of a comparison: the JSON, and what is made from it alone."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...calibration.files import write_atomically
from ..bounded import read_json
from .page import page
from .plots import psnr_plot, time_plot
from .result import BenchError, check_result
from .sheet import contact_sheet

if TYPE_CHECKING:
    from ...converters.plots import Picture

RESULT, PAGE = "bench.json", "bench.md"


def write_outputs(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write JSON, page, plots and contact sheet; their paths."""
    write_atomically(folder / RESULT, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
    pictures = plots_of(result, folder)
    written = [folder / RESULT, folder / PAGE]
    write_atomically(folder / PAGE, page(result, list(pictures)).encode())
    for name, picture in pictures.items():
        write_picture(folder / name, picture)
        written.append(folder / name)
    return written


def plots_of(result: Mapping[str, Any], folder: Path) -> dict[str, Picture]:
    """File name -> picture, from a result and the folder that has its pictures."""
    drawn = {
        "contact-sheet.png": contact_sheet(result, folder),
        "times.png": time_plot(result),
        "psnr.png": psnr_plot(result),
    }
    return {name: picture for name, picture in drawn.items() if picture is not None}


def write_picture(path: Path, picture: Picture) -> None:
    data = io.BytesIO()
    picture.save(data, format="PNG", optimize=True)
    write_atomically(path, data.getvalue())


def read_result(path: Path) -> dict[str, Any]:
    """A result from its file. Raises BenchError."""
    try:
        found = read_json(path)
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise BenchError(f"{path} is no JSON: give the bench.json of nvfp4-studio bench.") from error
    return check_result(found, path)
