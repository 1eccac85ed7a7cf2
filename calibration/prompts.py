"""How many different prompts were sampled, in a few hundred bytes that merge exactly.

Each sampling's conditioning has a digest of 63 bits, and the 64 smallest different ones are kept ("k minimum
values": Bar-Yossef et al., Counting Distinct Elements in a Data Stream, 2002). The smallest of a union are among
the smallest of its parts, so that merging is exact, associative and commutative, and up to 64 prompts are counted
exactly. More are as good: what the number is for is to tell when prompts were too few.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch

KEPT = 64
_DIGEST = re.compile("[0-7][0-9a-f]{15}")


@dataclass(frozen=True)
class Prompts:
    """smallest: the up to 64 smallest different digests 0..2**63 - 1, ascending. samplings: how many had a digest;
    those of imported statistics, and of files from before there were digests, had none.
    """

    smallest: tuple[int, ...] = ()
    samplings: int = 0

    @property
    def count(self) -> int:
        """How many different prompts there were; 64 stands for 64 or more."""
        return len(self.smallest)

    def at_least(self, samplings: int) -> bool:
        """Whether so many samplings, in all, may have had more prompts than `count`."""
        return self.count == KEPT or self.samplings < samplings

    def in_words(self, samplings: int) -> str:
        """The number of prompts of so many samplings in all: "3", "at least 64", or "" where it is unknown."""
        return f"at least {self.count}" if self.count and self.at_least(samplings) else str(self.count or "")

    def told(self, samplings: int) -> dict[str, Any] | None:
        """The same for programs: the count, and whether it is a bound; None where it is unknown."""
        return {"count": self.count, "at_least": self.at_least(samplings)} if self.count else None

    def merged(self, other: Prompts) -> Prompts:
        """Both together, in any order and grouping the same."""
        smallest = sorted({*self.smallest, *other.smallest})[:KEPT]
        return Prompts(tuple(smallest), self.samplings + other.samplings)

    def to_json(self) -> dict[str, Any]:
        """What a calibration file holds; digests as hexadecimal text, because JSON's numbers end at 2**53."""
        return {"samplings": self.samplings, "digests": [f"{digest:016x}" for digest in self.smallest]}

    @staticmethod
    def from_json(value: object, samplings: int) -> Prompts | None:
        """What `to_json` gave, of so many samplings in all; unknown ones for None, and None for anything else."""
        if value is None:
            return Prompts()
        if not isinstance(value, dict):
            return None
        known, digests = value.get("samplings"), value.get("digests")
        if not isinstance(known, int) or isinstance(known, bool) or not isinstance(digests, list):
            return None
        if not 0 < len(digests) <= min(KEPT, known) or known > samplings:
            return None
        if not all(isinstance(digest, str) and _DIGEST.fullmatch(digest) for digest in digests):
            return None
        smallest = tuple(int(digest, 16) for digest in digests)
        return Prompts(smallest, known) if list(smallest) == sorted(set(smallest)) else None


def prompt_of(digest: int | None) -> Prompts:
    """The prompts of a single sampling."""
    return Prompts() if digest is None else Prompts((digest,), 1)


def conditioning_digest(conditioning: Iterable[object]) -> int | None:
    """The digest of one sampling's conditioning: 63 bits of SHA-256 over dtypes, shapes and bytes, in this order.

    What is no dense tensor of its own bytes is left out; None when nothing is left. The same text has the same digest
    wherever the text encoder gives the same bits; where another kind of device rounds otherwise it is another prompt.
    Copies from the device, and so waits for it.
    """
    digest, tensors = hashlib.sha256(), [value for value in conditioning if _has_bytes(value)]
    for tensor in tensors:
        digest.update(f"{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return int.from_bytes(digest.digest()[:8], "big") >> 1 if tensors else None


def _has_bytes(value: object) -> TypeGuard[torch.Tensor]:
    """Whether this is an ordinary tensor: none of a wrapper class, sparse, quantized by torch, complex or without data."""
    return (
        isinstance(value, torch.Tensor)
        and type(value) in (torch.Tensor, torch.nn.Parameter)
        and value.layout is torch.strided
        and not (value.is_meta or value.is_quantized or value.is_complex())
    )
