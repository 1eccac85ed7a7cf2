"""Four-over-six: each block's largest weight falls on 6 or on 4, whichever has the smaller squared error.

E2M1 has a hole between 4 and 6, which a block's second-largest weights often fall into; with the
amax on 4 the grid's upper half is 2, 3, 4 and finer in relation. The method is that of Cook et al.,
"Four Over Six: More Accurate NVFP4 Quantization with Adaptive Block Scaling" (2025).

It is the default because, of the methods that need no activations, it gives the closest samples: a
plain search for the smallest squared error has the better weight error and the worse pictures, since
clipping shrinks the output.
"""

from __future__ import annotations

import torch

from .e2m1 import E2M1_MAX, amax_of, as_blocks, decode, positive, scaled_codes

HELP = "each block's largest weight falls on 6 or 4, whichever is closer to the original: closest pictures without activations"

MAX_BLOCK_SCALE = 256.0
"""Target of the largest block scale with amax on 6, so that 1.5 times as much (amax on 4) stays below 448."""


def tensor_scale(weight: torch.Tensor) -> torch.Tensor:
    """amax / (256 · 6) as float32 scalar."""
    return positive(amax_of(weight).float() / (MAX_BLOCK_SCALE * E2M1_MAX))


def round_rows(rows: torch.Tensor, tensor_scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See the package's docstring for shapes. A tie goes to 6."""
    blocks, amax = as_blocks(rows)
    codes, block_scale, total = scaled_codes(blocks, amax, tensor_scale, E2M1_MAX)
    error = _squared_error(blocks, codes, total)
    codes4, block_scale4, total4 = scaled_codes(blocks, amax, tensor_scale, 4.0)
    four = _squared_error(blocks, codes4, total4) < error
    codes = torch.where(four.unsqueeze(-1), codes4, codes)
    # torch.where has no float8 kernel on every device; the bytes are what is chosen.
    chosen = torch.where(four, block_scale4.view(torch.uint8), block_scale.view(torch.uint8))
    return codes.flatten(1), chosen.view(torch.float8_e4m3fn)


def _squared_error(blocks: torch.Tensor, codes: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    return (decode(codes) * total.unsqueeze(-1) - blocks).square().sum(dim=-1)
