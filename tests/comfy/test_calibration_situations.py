"""What calibration sees in the situations that users' workflows bring, checked against what ComfyUI really multiplied.

Each situation is sampled without and with calibration, while the classes' own ``forward`` and ComfyUI's fetching of
weights are watched. So "seen" is no claim of the hooks: every layer that ran must be in the file with as many calls
and the same amax, or be listed with a reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

SITUATIONS = (
    "LoRA merged",
    "LoRA beside the weights",
    "LoRA, no VRAM",
    "LoRA, little VRAM",
    "after the LoRAs",
    "cfg 1",
    "both passes in one call",
    "passes in separate calls",
    "DualCFGGuider",
    "DualModelGuider",
    "regions",
    "tiles",
    "compiled",
    "blocks compiled",
    "EasyCache",
    "two halves",
    "SamplerCustomAdvanced",
    "first model alone",
    "second model alone",
    "plain UNet",
    "ControlNet",
    "IP-Adapter",
)
KINDS = (
    "Wan",
    "LTX-Video",
    "HiDream",
    "expert bank",
    "FP8",
    "FP8, inputs too",
    "NVFP4 with pre_quant_scale",
    "NVFP4 with pre_quant_scale, inputs too",
    "INT8",
)
GATES = ["double_stream_blocks.0.block.ff_i.gate", "single_stream_blocks.0.block.ff_i.gate"]
"""Eight rows that choose HiDream's experts: a parameter of the gate itself, no Linear and never quantized."""
NO_REASON: dict[str, str] = {}
COMPILED = "Sampled without torch.compile, because compiled code cannot be observed."


@pytest.fixture(scope="module")
def situations(run_in_comfy: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_in_comfy("calibration_situations", work=str(tmp_path_factory.mktemp("situations")))


@pytest.fixture(scope="module")
def kinds(run_in_comfy: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_in_comfy("calibration_kinds", work=str(tmp_path_factory.mktemp("kinds")))


def check(found: dict[str, Any], unobserved: dict[str, str], gates: list[str]) -> None:
    """Same samples, no hook left, and the file agrees with what ran."""
    assert found["equal"] and found["hooks"] == 0
    assert found["unlisted"] == gates
    assert found["unobserved"] == unobserved
    assert sorted(found["wrong_calls"]) == gates and found["wrong_amax"] == []


@pytest.mark.parametrize("name", SITUATIONS)
def test_every_layer_that_ran_is_seen_and_no_sample_changes(situations: dict[str, Any], name: str) -> None:
    check(situations[name], NO_REASON, [])


@pytest.mark.parametrize("name", KINDS)
def test_every_layer_of_other_kinds_is_seen_or_listed(kinds: dict[str, Any], name: str) -> None:
    expected = kinds[name]["unobserved"] if name in ("HiDream", "expert bank", "INT8") else NO_REASON
    check(kinds[name], expected, GATES if name == "HiDream" else [])


def test_what_is_patched_beside_or_into_the_weights_is_recorded(situations: dict[str, Any]) -> None:
    for name in ("LoRA merged", "LoRA, no VRAM"):
        assert situations[name]["adaptations"] == {"13 weights patched (strength 0.75)": 1}
    assert situations["LoRA beside the weights"]["adaptations"] == {"bypass_lora injected": 1}
    assert situations["after the LoRAs"]["adaptations"] == {"none": 1}


def test_weights_outside_of_memory_are_patched_in_use(situations: dict[str, Any]) -> None:
    nothing, some = situations["LoRA, no VRAM"], situations["LoRA, little VRAM"]
    assert nothing["loaded"] == 0 and nothing["patched_in_use"] == 13
    assert some["loaded"] > 0 and some["offloaded"] > 0 and some["patched_in_use"] > 0


def test_samplings_accumulate_over_offloading(situations: dict[str, Any]) -> None:
    assert situations["offloaded"]["counts"] == [2, 2, 8]


@pytest.mark.parametrize(
    ("name", "schedule", "steps"),
    [
        ("cfg 1", [4, 0], 4),
        ("both passes in one call", [4, 4], 4),
        ("passes in separate calls", [4, 4], 8),
        ("DualCFGGuider", [4, 4], 4),
        ("DualModelGuider", [4, 4], 8),
        ("tiles", [8, 8], 8),
        ("SamplerCustomAdvanced", [4, 0], 4),
        ("ControlNet", [4, 4], 4),
    ],
)
def test_passes_are_told_apart(situations: dict[str, Any], name: str, schedule: list[int], steps: int) -> None:
    assert situations[name]["schedule"] == schedule and situations[name]["counts"][2] == steps


@pytest.mark.parametrize("name", ["both passes in one call", "DualCFGGuider", "DualModelGuider"])
def test_each_pass_is_named_after_its_prompt(situations: dict[str, Any], name: str) -> None:
    text = situations[name]["text_amax"]
    assert text["seen"] == pytest.approx(text["given"], rel=1e-6)


def test_regions_count_for_the_passes_of_their_prompts(situations: dict[str, Any]) -> None:
    found = situations["regions"]
    assert found["counts"] == [1, 2, 8] and found["schedule"][1] >= found["schedule"][0] > 0


def test_a_compiled_model_runs_eagerly_and_says_so(situations: dict[str, Any]) -> None:
    for name in ("compiled", "blocks compiled"):
        assert situations[name]["texts"][-1].endswith(COMPILED)
    assert COMPILED not in situations["after the LoRAs"]["texts"][-1]


def test_steps_without_a_layer_do_not_count_as_seen(situations: dict[str, Any]) -> None:
    found = situations["EasyCache"]
    assert 0 < found["counts"][2] == found["calls"] < situations["both passes in one call"]["counts"][2]
    assert found["schedule"] == [found["calls"]] * 2


def test_several_samplers_are_several_samplings_of_one_schedule(situations: dict[str, Any]) -> None:
    assert situations["two halves"]["counts"] == [2, 4, 4]
    assert situations["two halves"]["schedule"] == situations["both passes in one call"]["schedule"]


def test_two_models_have_the_statistics_that_each_has_alone(situations: dict[str, Any]) -> None:
    found = situations["two models"]
    assert found["counts"] == [[1, 2, 4], [1, 2, 4]] and found["first"] and found["second"]


def test_control_and_attention_patches_reach_the_statistics(situations: dict[str, Any]) -> None:
    assert situations["ControlNet"]["moved"] > 10 and situations["IP-Adapter"]["moved"] > 10
    assert (
        situations["ControlNet"]["layers"] == situations["IP-Adapter"]["layers"] == situations["plain UNet"]["layers"]
    )


def test_idle_experts_are_listed_with_their_reason(kinds: dict[str, Any]) -> None:
    idle = kinds["HiDream"]["unobserved"]
    assert idle and all(".ff_i.experts." in name for name in idle)
    assert set(idle.values()) == {"was only given inputs without a row, as an expert is that no token chose"}


def test_expert_banks_and_fused_layers_are_listed_with_their_reason(kinds: dict[str, Any]) -> None:
    bank = "MoEExperts multiplies without calling a Linear layer"
    assert kinds["expert bank"]["unobserved"] == {f"double_blocks.0.txt_mlp.{side}": bank for side in ("down", "up")}
    fused = "never ran while sampling, or ran in a fused path that does not call it"
    assert kinds["INT8"]["unobserved"] == {f"blocks.{block}.ffn.2": fused for block in (0, 1)}


def test_inputs_are_seen_before_pre_quant_scale_and_serve_the_original(kinds: dict[str, Any]) -> None:
    found = kinds["pre_quant_scale"]
    assert found["layers"] == 18
    assert found["ratios"][0] > 0.8 and found["ratios"][1] < 1.25  # the scales alone lie between 0.6 and 1.4
    assert found["other_weights"] == [] and found["warnings"] == []
