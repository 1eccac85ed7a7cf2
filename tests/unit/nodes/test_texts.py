"""The sentences on the nodes."""

from __future__ import annotations

from dataclasses import replace

import torch

from nvfp4_studio.calibration import BINS, Calibration, LayerStatistics, calibration_report, compare
from nvfp4_studio.calibration.prompts import Prompts
from nvfp4_studio.nodes import texts


def layer(amax: float, nonfinite: int = 0) -> LayerStatistics:
    histogram = torch.zeros(BINS, dtype=torch.int64)
    return LayerStatistics(16, 16, 1, 1, 16, nonfinite, amax, histogram, histogram, histogram, torch.zeros(2, 16))


def calibration(**nonfinite: int) -> Calibration:
    layers = {"a": layer(3136.0), **{name: layer(1.0, count) for name, count in nonfinite.items()}}
    schedule = torch.tensor([[0] * 8 + [36] * 8, [0] * 16])
    return Calibration(layers, {"moe": "experts are fused"}, samplings=18, images=18, steps=288, schedule=schedule)


def coverage_text(found: Calibration) -> str:
    return texts.coverage_text(found, calibration_report(found))


def test_the_summary_names_images_steps_layers_and_the_largest() -> None:
    assert texts.described(calibration()).startswith("18 images, 288 steps, 1 layer, largest amax 3136 in a")


def test_unobserved_layers_are_told() -> None:
    assert "1 of 2 Linear layers not observed." in texts.described(calibration())
    assert "Not observed: moe: experts are fused" in coverage_text(calibration())


def test_what_is_lacking_is_said_on_the_node_instead_of_enough() -> None:
    seen = Calibration(samplings=8, schedule=torch.ones(2, 16, dtype=torch.int64), prompts=Prompts((9,), 8))
    assert texts.described(seen).splitlines()[1:] == ["All 8 samplings had the same prompt: vary it."]
    stopped = replace(seen, prompts=Prompts())
    stopped.schedule[:, :6] = 0
    assert texts.described(stopped).splitlines()[1:] == [
        "Add low-noise steps: nothing seen at noise levels 0.00-0.38 (let the sampler run to its last step)."
    ]


def test_nonfinite_layers_are_named_a_few_of_many() -> None:
    text = texts.described(calibration(b=4, c=3, d=2, e=1))
    assert "NaN or infinite inputs, left out: b (4), c (3), d (2) and 1 more." in text


def test_an_interrupted_sampling_is_told() -> None:
    assert texts.after_sampling(calibration(), "x", completed=False).endswith("its steps are kept.")
    assert "interrupted" not in texts.after_sampling(calibration(), "x", completed=True)


def test_the_unseen_part_of_the_schedule_is_told() -> None:
    assert "Noise schedule seen: 50%; not seen (0 = clean, 1 = noise): 0.00-0.50." in coverage_text(calibration())


def test_outliers_and_the_other_calibration_are_told() -> None:
    names = [f"blocks.{index}.mlp" for index in range(5)]
    before = Calibration({name: layer(1.0) for name in names}, samplings=1)
    after = Calibration({name: layer(20.0) for name in names[1:]} | {names[0]: layer(4000.0)}, samplings=1)
    text = texts.coverage_text(after, calibration_report(after), compare(before, after, "original", "merged"))
    assert "Far above the median amax of their type: blocks.0.mlp (200 times)." in text
    assert "merged against original: inputs are in the median 20 times larger" in text


def test_before_sampling_says_what_is_there() -> None:
    assert "nothing collected yet" in texts.before_sampling(None, "x", restart=False)
    assert "nothing collected yet" in texts.before_sampling(calibration(), "x", restart=True)
    assert "18 images" in texts.before_sampling(calibration(), "x", restart=False)


def test_a_conversion_shows_size_ratio_errors_and_warnings() -> None:
    summary = {
        "source_bytes": 27_100_000_000,
        "output_bytes": 20_325_000_000,
        "ratio": 0.75,
        "nvfp4_layers": 360,
        "fp8_layers": 480,
        "mean_sqnr_db": 21.2,
        "worst_layer": "model.diffusion_model.blocks.1.mlp",
        "worst_sqnr_db": 20.05,
    }
    lines = texts.conversion_text(summary, "x.safetensors", ["one", "two", "three"]).splitlines()
    assert lines[:3] == ["x.safetensors", "27.1 GB → 20.3 GB (75% of the source)", "360 layers NVFP4, 480 FP8"]
    assert lines[3].endswith("worst 20.1 dB in blocks.1.mlp") or lines[3].endswith("worst 20.0 dB in blocks.1.mlp")
    assert lines[4:] == ["Warning: one", "Warning: two", "1 more warnings in the report beside the file."]


def test_sizes_are_said_as_people_say_them() -> None:
    assert [texts.size(n) for n in (12, 8_400, 8_400_000, 27.1e9)] == ["12 B", "8.4 KB", "8.4 MB", "27.1 GB"]


BLACKWELL = {"name": "RTX 5090", "capability": [12, 0], "kernels": True, "cuda": "13.0", "nvfp4": True}
"""As ``hardware.described`` tells of it."""


def test_a_plan_says_what_this_machines_gpu_cannot_do() -> None:
    ada = {**BLACKWELL, "name": "RTX 4090", "capability": [8, 9], "nvfp4": False}
    cpu = {"name": "cpu", "capability": None, "kernels": None, "cuda": None, "nvfp4": False}
    assert texts.plan_notes(BLACKWELL, nvfp4=True) == texts.plan_notes(cpu, nvfp4=True) == []
    (note,) = texts.plan_notes(ada, nvfp4=True)
    assert note.startswith("RTX 4090 does not compute in NVFP4") and texts.plan_notes(ada, nvfp4=False) == []


def test_missing_cuda_kernels_are_told_with_the_way_to_them() -> None:
    (old,) = texts.plan_notes({**BLACKWELL, "kernels": False, "cuda": "12.8"}, nvfp4=True)
    assert (
        "slower than predicted: they need a PyTorch for CUDA 13 (cu130) or newer, and this one is for CUDA 12.8." in old
    )
    assert texts.kernels_text({**BLACKWELL, "kernels": False}).endswith("ComfyUI's log tells why.")
