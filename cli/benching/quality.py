"""How far a model's pictures are from the reference's, measured on the files that the server gave."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...converters.errors import PictureError

if TYPE_CHECKING:
    from torch import Tensor

    from ...converters.pictures import Scores

MAX_PIXELS = 1 << 25
"""8192 x 4096. Metrics take some 320 bytes a pixel: 11 GB for this many."""

KINDS = ("PNG", "JPEG", "WEBP")
"""What Pillow may take a file for: of others it would start programs (Ghostscript for EPS)."""


def add_scores(
    entries: Sequence[dict[str, Any]], reference: int, folder: Path, progress: Callable[[int, int, str], None]
) -> None:
    """Give every generation that has a counterpart of the reference its "scores", or "unscored" with the reason.

    "scores" are {"psnr_db", "ssim", "haarpsi", "equal"}, means over the generation's pictures; psnr_db is None where
    they are equal, because it is infinite then.
    """
    expected = {entry["picture"]: entry for entry in entries if entry["model"] == reference and "pictures" in entry}
    others = [entry for entry in entries if entry["model"] != reference and "pictures" in entry]
    for number, entry in enumerate(others):
        progress(number, len(others), "comparing pictures")
        counterpart = expected.get(entry["picture"])
        try:
            entry["scores"] = _scores(counterpart, entry, folder)
        except PictureError as error:
            entry["unscored"] = str(error)


def _scores(expected: Mapping[str, Any] | None, entry: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    from ...converters.pictures import score

    if expected is None:
        raise PictureError("The reference has no picture of this prompt.")
    if not entry["pictures"] or len(entry["pictures"]) != len(expected["pictures"]):
        raise PictureError(
            f"There are {len(expected['pictures'])} pictures of the reference and {len(entry['pictures'])} of this model."
        )
    found: list[Scores] = []
    for one, other in zip(expected["pictures"], entry["pictures"], strict=True):
        found += score(read_picture(folder / one), read_picture(folder / other))
    differing = [pair.psnr for pair in found if not pair.equal]
    return {
        "psnr_db": statistics.fmean(differing) if differing else None,
        "ssim": statistics.fmean(pair.ssim for pair in found),
        "haarpsi": statistics.fmean(pair.haarpsi for pair in found),
        "equal": not differing,
    }


def read_picture(path: Path) -> Tensor:
    """uint8 [1, H, W, 3]. Raises PictureError for films, for what is no picture, and for what is absurdly large.

    The error has the file's name without its folder: results are passed on.
    """
    import numpy as np
    import torch
    from PIL import Image

    try:
        with Image.open(path, formats=KINDS) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise PictureError(f"{path.name} is a film of several pictures, whose quality is not measured.")
            if image.width * image.height > MAX_PIXELS:
                raise PictureError(f"{path.name} has {image.width} x {image.height} pixels, more than {MAX_PIXELS}.")
            pixels = np.array(image.convert("RGB"))
    except FileNotFoundError as error:
        raise PictureError(f"{path.name} is not there any more.") from error
    except (OSError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise PictureError(f"{path.name} is no whole PNG, JPEG or WebP picture.") from error
    return torch.from_numpy(pixels)[None]
