"""Models that make it hard to observe them: long-lived inputs, devices without values, autocast, huge numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nvfp4_studio.calibration import DETAILS, Collector, collector


class Blocks(nn.Module):
    """Many blocks that are all given the same context, as cross-attention is, or one vector, as modulation is."""

    def __init__(self, blocks: int = 60, width: int = 32) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (
            nn.ModuleList(nn.Linear(width, width) for _ in range(blocks)) for _ in range(4)
        )

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        for q, k, v, out in zip(self.q, self.k, self.v, self.out, strict=True):
            x = x + out(q(x * 1.0) + (k(context) + v(context)).mean(1, keepdim=True))
        return x


@pytest.mark.parametrize("inference", [True, False])
@pytest.mark.parametrize("detail", DETAILS)
def test_an_input_that_outlives_many_others_counts_for_every_layer(detail: str, inference: bool) -> None:
    torch.manual_seed(0)
    model = Blocks()
    made = Collector(model, detail)
    largest = 0.0
    with torch.inference_mode(inference), torch.no_grad():
        for level in (0.9, 0.1):
            context = torch.randn(2, 5, 32)
            largest = max(largest, float(context.abs().max()))
            with made.observing(level):
                model(torch.randn(2, 8, 32), context)
    found = made.finish()
    assert found.unobserved == {} and {layer.calls for layer in found.layers.values()} == {2}
    assert {found.layers[f"{name}.{block}"].amax for name in "kv" for block in range(60)} == {largest}
    assert {found.layers[f"k.{block}"].rows for block in range(60)} == {20}


def test_a_layer_that_is_given_one_tensor_again_is_measured_again() -> None:
    model = nn.Sequential(nn.Linear(16, 16))
    made = Collector(model)
    with torch.inference_mode(), made.observing(0.5):
        x = torch.ones(4, 16)
        for _ in range(3):
            model(x)
            x.mul_(10)
    layer = made.finish().layers["0"]
    assert (layer.calls, layer.amax) == (3, 100.0)


@pytest.mark.parametrize("detail", DETAILS)
def test_nothing_is_read_back_before_the_end(detail: str) -> None:
    """A device without values cannot be waited for: whatever reads one raises."""
    model = Blocks().to("meta")
    made = Collector(model, detail)
    with torch.inference_mode():
        for _ in range(12):
            with made.observing(torch.tensor([0.5, 0.5], device="meta"), passes=(0, 1)):
                model(torch.empty(2, 4096, 32, device="meta"), torch.empty(2, 77, 32, device="meta"))
    with pytest.raises((RuntimeError, NotImplementedError), match="(?i)meta"):
        made.finish()


@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
def test_products_of_channels_are_exact_under_autocast(autocast: torch.dtype) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(160, 8)), torch.randn(64, 160)
    made = Collector(model, "curvature")
    with torch.inference_mode(), torch.autocast("cpu", dtype=autocast), made.observing(0.5):
        model(x)
    curvature = made.finish().layers["0"].curvature
    assert curvature is not None
    wanted = x.double().T @ x.double() / 64
    for block, part in enumerate((slice(0, 128), slice(128, 160))):
        assert torch.allclose(curvature.gram(block), wanted[part, part], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1e10, 1e12, 1e18])
def test_inputs_whose_squares_cannot_be_kept_cost_a_sampling_their_channels_only(size: float) -> None:
    model = nn.Sequential(nn.Linear(160, 8))
    made = Collector(model, "curvature")
    with torch.inference_mode(), made.observing(0.5):
        model(torch.full((64, 160), size))
    layer = made.finish().layers["0"]
    assert layer.amax == torch.tensor(size).item() and layer.channels is None and layer.curvature is None


def test_another_default_dtype_does_not_matter() -> None:
    model, x = nn.Sequential(nn.Linear(16, 8)), torch.randn(64, 16)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.set_default_dtype(dtype)
        try:
            made = Collector(model, "curvature")
            with torch.inference_mode(), made.observing(0.5):
                model(x)
            found.append(made.finish())
        finally:
            torch.set_default_dtype(torch.float32)
    assert found[0].same_as(found[1])


@pytest.mark.parametrize("kind", ["sparse", "nested"])
def test_inputs_that_cannot_be_measured_do_not_stop_the_model(kind: str) -> None:
    class Summed(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(torch.ones(2, 16))

    model = nn.Sequential(Summed(16, 8))
    x = torch.eye(16).to_sparse() if kind == "sparse" else torch.nested.nested_tensor([torch.ones(2, 16)])
    made = Collector(model)
    with torch.inference_mode(), made.observing(0.5):
        model(x)
    assert made.finish().unobserved == {"0": collector.UNMEASURABLE}
