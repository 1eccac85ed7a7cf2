"""The same rounding for FP8 sources by look-up: an FP8 weight has only 256 values.

Within one tensor a block's scale depends on nothing but the largest magnitude in the block, one of 128
bytes, and a weight's code on that byte and its own. So 128 × 256 codes say everything; they are
computed once for each tensor by the very arithmetic of ``targets``, and the weights are then moved
through tables without a floating point operation. Bytes are identical; on a CPU it is more than ten
times as fast.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .e2m1 import BLOCK
from .targets import quantize, squared_error

MAGNITUDES = 128
VALUES = 256


@dataclass(frozen=True)
class Tables:
    """What becomes of every weight byte in every block, for one tensor.

    ``codes`` is uint8 [T · 128 · 256], ``scales`` float8_e4m3fn [T · 128], ``gain`` float32 [T−1, 128 · 256]:
    by how much the squared error of target t+1 exceeds that of target 0.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    gain: torch.Tensor

    @classmethod
    def build(cls, values: torch.Tensor, tensor_scale: torch.Tensor, targets: tuple[float, ...]) -> Tables:
        """Compute the tables.

        Args:
            values: float32 [256], the upcast value of each byte; those that are not finite may hold anything.
            tensor_scale: float32 scalar.
            targets: one or two grid points.
        """
        if len(targets) > 2:
            raise ValueError(f"tables compare two targets, got {len(targets)}")
        blocks = values.nan_to_num(0.0, 0.0, 0.0).reshape(1, -1, BLOCK).expand(MAGNITUDES, -1, -1)
        amax = values[:MAGNITUDES].nan_to_num(0.0, 0.0, 0.0).abs().unsqueeze(1).expand(-1, blocks.shape[1]).contiguous()
        codes, scales, errors = [], [], []
        for target in targets:
            found, scale, total = quantize(blocks, amax, tensor_scale, target)
            codes.append(found.reshape(-1))
            scales.append(scale[:, 0])
            errors.append(squared_error(blocks, found, total).reshape(-1))
        gain = torch.stack([error - errors[0] for error in errors[1:]]) if errors[1:] else torch.empty(0)
        scale_bytes = torch.cat([scale.contiguous().view(torch.uint8) for scale in scales])
        return cls(torch.cat(codes), scale_bytes.view(torch.float8_e4m3fn), gain)

    def round_rows(self, stored: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes uint8 [R, K] and block scales float8_e4m3fn [R, K/16] of FP8 bytes uint8 [R, K]."""
        blocks = stored.reshape(stored.shape[0], -1, BLOCK)
        largest = (blocks & (MAGNITUDES - 1)).amax(dim=-1).to(torch.int32)
        index = (largest * VALUES).unsqueeze(-1) + blocks
        if self.gain.numel():
            gain = torch.index_select(self.gain[0], 0, index.reshape(-1)).reshape(index.shape).sum(dim=-1)
            second = (gain < 0).to(torch.int32)
            index += (second * (MAGNITUDES * VALUES)).unsqueeze(-1)
            largest += second * MAGNITUDES
        codes = torch.index_select(self.codes, 0, index.reshape(-1)).reshape(stored.shape)
        scales = torch.index_select(self.scales.view(torch.uint8), 0, largest.reshape(-1))
        return codes, scales.view(torch.float8_e4m3fn).reshape(largest.shape)
