"""Rounding to the nearest scale for FP8 sources by look-up of pairs: an FP8 weight has only 256 values.

Within one tensor a block's scale depends on nothing but the largest magnitude in the block, one of 128
bytes, and a weight's code on that byte and its own. Two neighbouring weights are one 16-bit number and
become one packed byte, so a table of 65536 bytes for each of the block magnitudes that occur (about 20
in a Gaussian weight) says everything. It is computed by the very arithmetic of ``candidates``, and the
weights then move through it without a floating point operation. Bytes are identical; on a CPU it is
more than twenty times as fast. Where scales are chosen, ``scale_table`` looks up single weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .candidates import Candidate, codes_of, scales
from .e2m1 import BLOCK
from .scratch import scratch

MAGNITUDES = 128
VALUES = 256
PAIRS = VALUES * VALUES
MAGNITUDE_BITS = 0x7F7F


@dataclass
class Tables:
    """What becomes of every pair of weight bytes in every block of one tensor.

    ``packed`` is uint8 [128, 65536], ``scales`` uint8 [128], float8_e4m3fn bytes. Rows are filled in when their
    magnitude first occurs, ``known`` tells which are.
    """

    values: torch.Tensor
    tensor_scale: torch.Tensor
    candidate: Candidate
    packed: torch.Tensor
    scales: torch.Tensor
    known: torch.Tensor

    @classmethod
    def build(cls, values: torch.Tensor, tensor_scale: torch.Tensor, candidate: Candidate) -> Tables:
        """Tables without rows yet.

        Args:
            values: float32 [256], the upcast value of each byte; those that are not finite may hold anything.
            tensor_scale: float32 scalar on the same device.
            candidate: the scale of every block.
        """
        device = values.device
        tables = cls(
            values=values.nan_to_num(0.0, 0.0, 0.0),
            tensor_scale=tensor_scale,
            candidate=candidate,
            packed=scratch("packed", (MAGNITUDES, PAIRS), torch.uint8, device),
            scales=torch.zeros(MAGNITUDES, dtype=torch.uint8, device=device),
            known=torch.zeros(MAGNITUDES, dtype=torch.bool),
        )
        if values.is_cuda:
            # All rows at once: asking which occur would wait for the device at every piece.
            tables._learn(torch.arange(MAGNITUDES, dtype=torch.int32, device=device))
        return tables

    def round_rows(self, stored: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Packed codes uint8 [R, K/16, 8] and block scales float8_e4m3fn [R, K/16] of FP8 bytes uint8 [R, K].

        The codes are scratch memory of this thread.
        """
        index, largest = pairs_and_largest(stored)
        if not self.values.is_cuda:
            self._learn(largest)
        index += largest * PAIRS
        packed = scratch("found", index.shape, torch.uint8, stored.device)
        torch.index_select(self.packed.view(-1), 0, index.view(-1), out=packed.view(-1))
        scales = torch.index_select(self.scales, 0, largest.view(-1)).view(largest.shape)
        return packed.permute(1, 2, 0), scales.view(torch.float8_e4m3fn)

    def _learn(self, largest: torch.Tensor) -> None:
        """Fill in the rows of the block magnitudes int32 [R, B] that occur for the first time."""
        present = torch.bincount(largest.view(-1), minlength=MAGNITUDES).cpu() > 0
        new = (present & ~self.known).nonzero().reshape(-1).to(self.values.device)
        if not len(new):
            return
        values = self.values.unsqueeze(1).expand(-1, len(new)).contiguous()
        scale, total = scales(self.values[new].abs(), self.tensor_scale, self.candidate)
        codes = codes_of(values, total).T.contiguous()
        # The pair's first byte is the low one of the index and the high nibble of the result.
        self.packed[new] = ((codes << 4).unsqueeze(1) | codes.unsqueeze(2)).flatten(1)
        self.scales[new] = scale.to(torch.float8_e4m3fn).view(torch.uint8)
        self.known |= present


def pairs_and_largest(stored: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of FP8 bytes uint8 [R, K]: the pairs of each block one below the other, and the largest byte in it without sign.

    Returns:
        int32 [8, R, K/16] (scratch memory) and int32 [R, K/16].
    """
    # One below the other, because what is done block by block then runs along memory.
    pairs = stored.view(torch.uint16).reshape(len(stored), -1, BLOCK // 2).permute(2, 0, 1)
    index = scratch("pairs", pairs.shape, torch.int32, stored.device).copy_(pairs)
    masked = scratch("masked pairs", pairs.shape, torch.int32, stored.device)
    low = torch.bitwise_and(index, MAGNITUDES - 1, out=masked).amax(dim=0)
    high = torch.bitwise_and(index, MAGNITUDE_BITS, out=masked).amax(dim=0)
    return index, torch.maximum(low, high.bitwise_right_shift_(8))
