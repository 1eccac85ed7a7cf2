"""What tells one source, one calibration, one measurement from another."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from ...calibration import Calibration, sample_rows
from ..source import Source


def source_fingerprint(source: Source) -> str:
    """SHA-256, hexadecimal, over names, dtypes and shapes of all tensors and four rows of each matrix.

    The same for any container and place on the disk; another for any fine-tune that touched one of those rows.
    """
    return source.remembered("fingerprint", lambda: _fingerprint(source))


def _fingerprint(source: Source) -> str:
    digest = hashlib.sha256()
    for name, info in sorted(source.tensors.items()):
        digest.update(json.dumps([name, info.dtype, list(info.shape)]).encode())
        if len(info.shape) == 2 and info.nbytes:
            for row in sample_rows((info.shape[0], info.shape[1])):
                digest.update(source.read_rows(name, row, row + 1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def calibration_fingerprint(calibration: Calibration) -> str:
    """SHA-256, hexadecimal, over what a measurement takes from a calibration: counts, ranges and the rows' hashes."""
    digest = hashlib.sha256()
    digest.update(json.dumps([calibration.steps, calibration.schedule.tolist()]).encode())
    for name, layer in sorted(calibration.layers.items()):
        seen = [name, layer.rows, layer.amax, layer.block_amax.tolist(), layer.call_amax.tolist()]
        digest.update(json.dumps(seen).encode())
        if layer.reservoir is not None:
            digest.update(layer.reservoir.hashes.numpy().tobytes())
    return digest.hexdigest()


def digest_of(description: Any) -> str:
    """SHA-256, hexadecimal, of a value's JSON."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
