"""The signature behind which every stored format stands."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch

from ..rounding import Rounding
from .weight import Weight

if TYPE_CHECKING:
    from ...calibration import LayerStatistics

Declared = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
"""Suffix, dtype and shape of each tensor of a layer; a shape of () means one value in any shape."""
Fields = Mapping[str, object]
"""What a layer's ``comfy_quant`` tag says."""
Rows = Callable[[int, int], torch.Tensor]
"""Float32 [last − first, K]: rows ``first`` to ``last`` (exclusive) of the weight that ComfyUI computes with."""


class InputScale(enum.Enum):
    """How ComfyUI scales the input of a layer of this format."""

    NONE = "measures every input itself and reads no input_scale"
    OPTIONAL = "reads input_scale; without one it measures every input"
    NEEDED = "reads input_scale; without one the scale is 1, which clamps, so such a layer must not quantize its input"


@dataclass(frozen=True)
class Encoding:
    """How one weight is to be encoded.

    ``method`` is the rounding of formats that have a choice, ``statistics`` what it may know of the inputs. ``fields``
    are those of the layer's tag, which the plan chose. The arithmetic runs on ``device``, results come back to the CPU.
    ``check`` is called between pieces and may raise to cancel.
    """

    method: Rounding
    device: torch.device = torch.device("cpu")
    fields: Fields = field(default_factory=dict)
    check: Callable[[], None] = lambda: None
    statistics: LayerStatistics | None = None


class Stored(Protocol):
    """A layer of a file, as formats read it back. ``shape`` is (out_features, in_features) of the weight."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def fields(self) -> Fields: ...

    def rows(self, first: int, last: int) -> torch.Tensor:
        """Rows of the stored weight."""

    def tensor(self, suffix: str) -> torch.Tensor | None:
        """Another tensor of the layer, None where there is none."""


class Format(Protocol):
    """What a format's module has.

    ``NAME`` is ComfyUI's name, a key of its ``QUANT_ALGOS``. ``POLICIES`` are the names by which recipes ask
    for it, each with the fields of the tag that it stands for. ``SCALES`` are the suffixes of the tensors
    that must hold finite, positive numbers (block scales of zero blocks are zero).
    """

    NAME: str
    POLICIES: Mapping[str, Fields]
    INPUT_SCALE: InputScale
    SCALES: tuple[str, ...]

    def refusal(self, shape: tuple[int, int], fields: Fields) -> str | None:
        """Why a weight [N, K] cannot be held, in a few words; None when it can."""

    def declare(self, shape: tuple[int, int], fields: Fields) -> Declared:
        """The tensors of a layer, as ``encode`` returns them."""

    def encode(self, weight: Weight, encoding: Encoding) -> dict[str, torch.Tensor]:
        """Quantize a weight; the result has the declared tensors, on the CPU.

        Raises:
            ConversionError: the weight holds NaN or infinity.
            SourceError: its scale is no positive number.
        """

    def decoder(self, stored: Stored) -> Rows:
        """A function that returns rows of the weight that was stored."""

    def quantized_input(self, values: torch.Tensor, input_scale: float | None, fields: Fields) -> torch.Tensor:
        """What ComfyUI's kernels make of a layer's input before they multiply, in the input's own basis.

        The arithmetic is that of comfy-kitchen's kernels in the dtype of the input; a product of this and
        ``decoder``'s rows in float32 is the layer's output but for the order of sums and the output's own dtype.

        Args:
            values: rows of one input [R, K], of a float dtype.
            input_scale: that of the layer, None where it has none or the format reads none.
            fields: of the layer's tag.

        Returns:
            float32 [R, K], on the device of ``values``.
        """
