"""On a GPU the same bytes come out as on a CPU, whatever the rounding, and nothing of the model stays there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nvfp4_studio.converters import Options, convert
from nvfp4_studio.converters.formats import Encoding, Weight, nvfp4
from nvfp4_studio.converters.rounding import METHODS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.CANDIDATES])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16])
def test_bytes_do_not_depend_on_the_device(method: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvfp4, "CUDA_WEIGHTS_AT_ONCE", 1 << 16)
    stored = (torch.randn(700, 528, generator=torch.Generator().manual_seed(1)) * 8).to(dtype)
    weight = Weight("layer", stored, torch.tensor(0.0123) if dtype == torch.float8_e4m3fn else None)
    parts = {
        device: nvfp4.encode(weight, Encoding(METHODS[method], torch.device(device))) for device in ("cpu", "cuda")
    }
    for suffix, tensor in parts["cpu"].items():
        other = parts["cuda"][suffix]
        assert torch.equal(tensor.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)), suffix


@pytest.mark.parametrize("rounding", ["nearest", "block-search"])
def test_large_weights_stay_within_what_the_node_asks_for(tmp_path: Path, rounding: str) -> None:
    """What torch takes from the card counts, not only what it uses: it keeps for each stream what was freed there."""
    source = tmp_path / "source.safetensors"
    save_file({f"blocks.{n}.mlp.weight": torch.randn(12288, 3072).bfloat16() for n in range(6)}, source)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    convert(source, tmp_path / "out.safetensors", Options(recipe="weight-only", rounding=rounding), device="cuda")
    assert torch.cuda.max_memory_reserved() - before < 2 << 30


def test_a_conversion_on_the_gpu_leaves_nothing_there(tmp_path: Path) -> None:
    source = tmp_path / "source.safetensors"
    save_file({f"blocks.{n}.mlp.weight": torch.randn(2048, 2048).bfloat16() for n in range(12)}, source)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    outputs = [tmp_path / f"{device}.safetensors" for device in ("cpu", "cuda")]
    for output in outputs:
        convert(source, output, Options(recipe="weight-only"), device=output.stem)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert torch.cuda.memory_allocated() == before
    assert torch.cuda.max_memory_allocated() - before < 1 << 30
