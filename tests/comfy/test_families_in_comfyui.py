"""Stock ComfyUI recognises and loads every family's model as the plan would write it; the guard list is derived.

One script does the work for all models: the key layout is that of ComfyUI's own model class at true width and depth,
the source a sparse file, the planned file a table of meta tensors. Each model is planned three times: with its
family's recipe from a BF16 file with a prefix, from a raw FP8 file, and with ``weight-only``, which packs all that
the guard does not protect.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from nvfp4_studio.converters.encoder_signatures import TEXT_ENCODERS
from nvfp4_studio.converters.signatures import SIGNATURES

LOADER_ONLY = {r"(model\.)?lm_head"}
"""It is a Linear, but ``load_text_encoder_state_dicts`` renames its weight and leaves the scales behind."""
N, F = "nvfp4", "float8_e4m3fn"
MODELS: dict[str, tuple[str, str, str, int, int]] = {
    # model: ComfyUI's class, our family, its recipe, NVFP4 layers, FP8 layers
    "flux-dev": ("Flux", "flux", "flux", 228, 0),
    "flux-schnell": ("FluxSchnell", "flux", "flux", 228, 0),
    "flux-fill": ("FluxInpaint", "flux", "flux", 228, 0),
    "flux-ovis": ("FluxSchnell", "flux", "flux", 114, 0),
    "flux-longcat": ("LongCatImage", "flux", "flux", 120, 0),
    "flux2-dev": ("Flux2", "flux2", "flux", 160, 0),
    "flux2-klein-4b": ("Flux2", "flux2", "flux", 80, 0),
    "flux2-klein-9b": ("Flux2", "flux2", "flux", 112, 0),
    "chroma": ("Chroma", "chroma", "flux", 228, 0),
    "chroma-radiance": ("ChromaRadiance", "chroma", "flux", 228, 0),
    "qwen-image": ("QwenImage", "qwen-image", "qwen-image-v3", 360, 480),
    "qwen-image-layered": ("QwenImage", "qwen-image", "qwen-image-v3", 360, 480),
    "z-image": ("ZImage", "z-image", "z-image-base", 60, 90),
    "z-image-omni": ("ZImage", "z-image", "z-image-base", 60, 90),
    "z-image-pixel": ("ZImagePixelSpace", "z-image", "z-image-base", 60, 90),
    "lumina2": ("Lumina2", "lumina2", "lumina2", 66, 44),
    "lumina2-newbie": ("Lumina2", "lumina2", "lumina2", 96, 64),
    "wan-t2v-1.3b": ("WAN21_T2V", "wan", "wan", 234, 26),
    "wan-t2v-14b": ("WAN21_T2V", "wan", "wan", 324, 36),
    "wan-i2v-14b": ("WAN21_I2V", "wan", "wan", 324, 108),
    "wan-flf-14b": ("WAN21_I2V", "wan", "wan", 324, 108),
    "wan2.2-i2v-14b": ("WAN21_T2V", "wan", "wan", 324, 36),
    "wan2.2-ti2v-5b": ("WAN22_T2V", "wan", "wan", 234, 26),
    "wan-vace-14b": ("WAN21_Vace", "wan", "wan", 324, 80),
    "wan-camera-14b": ("WAN21_Camera", "wan", "wan", 324, 108),
    "wan2.2-camera-14b": ("WAN22_Camera", "wan", "wan", 324, 36),
    "wan-scail2-14b": ("WAN21_SCAIL2", "wan", "wan", 324, 108),
    "wan-dancer-14b": ("WAN22_WanDancer", "wan", "wan", 324, 108),
    "wan-s2v-14b": ("WAN22_S2V", "wan", "wan", 324, 36),
    "wan-humo-17b": ("WAN21_HuMo", "wan", "wan", 324, 180),
    "wan-animate-14b": ("WAN22_Animate", "wan", "wan", 324, 120),
    "wan-scail-14b": ("WAN21_SCAIL", "wan", "wan", 324, 108),
    "ltxv-2b": ("LTXV", "ltx", "ltx-2", 240, 0),
    "ltxv-13b": ("LTXV", "ltx", "ltx-2", 440, 0),
    "ltx-2-19b": ("LTXAV", "ltx", "ltx-2", 440, 792),
    "sd3-medium": ("SD3", "sd3", "sd3", 80, 80),
    "sd3.5-medium": ("SD3", "sd3", "sd3", 102, 80),
    "sd3.5-large": ("SD3", "sd3", "sd3", 136, 136),
    "hunyuan-video": ("HunyuanVideo", "hunyuan-video", "hunyuan-video", 136, 64),
    "hunyuan-video-tencent": ("HunyuanVideo", "hunyuan-video", "hunyuan-video", 136, 64),
    "hunyuan-video-i2v": ("HunyuanVideoI2V", "hunyuan-video", "hunyuan-video", 136, 64),
    "hunyuan-video-1.5": ("HunyuanVideo15", "hunyuan-video", "hunyuan-video", 204, 200),
    "hunyuan-image-2.1": ("HunyuanImage21", "hunyuan-video", "hunyuan-video", 136, 64),
    "hidream": ("HiDream", "hidream", "hidream", 680, 164),
    "anima": ("Anima", "anima", "anima", 156, 104),
    "cosmos-predict2-2b": ("CosmosT2IPredict2", "cosmos", "cosmos", 168, 72),
    "cosmos-predict2-14b-i2v": ("CosmosI2VPredict2", "cosmos", "cosmos", 224, 96),
    "cosmos1-7b": ("CosmosT2V", "cosmos1", "cosmos", 168, 72),
    "krea2": ("Krea2", "krea2", "krea2", 120, 72),
    "ernie-image": ("ErnieImage", "ernie-image", "ernie-image", 238, 0),
    "sdxl": ("SDXL", "unet", "generic", 420, 0),
    "auraflow": ("AuraFlow", "generic", "generic", 304, 0),
    "pixart": ("PixArtSigma", "generic", "generic", 182, 0),
    "hunyuan-dit": ("HunyuanDiT1", "generic", "generic", 284, 0),
    "mochi": ("GenmoMochi", "generic", "generic", 460, 0),
    "omnigen2": ("Omnigen2", "generic", "refused", 0, 0),
    "lens": ("Lens", "generic", "generic", 60, 0),
    "mage-flow": ("MageFlow", "generic", "generic", 72, 0),
    "ideogram4": ("Ideogram4", "generic", "generic", 30, 0),
    "kandinsky5": ("Kandinsky5", "generic", "generic", 72, 0),
    "cogvideox-1.5": ("CogVideoX_I2V", "generic", "generic", 36, 0),
    "hunyuan3d-2": ("Hunyuan3Dv2mini", "generic", "generic", 76, 0),
    "hunyuan3d-2.1": ("Hunyuan3Dv2_1", "generic", "generic", 279, 0),
    "ace-step": ("ACEStep", "generic", "generic", 298, 0),
    "minimax-h3": ("MiniMaxH3", "generic", "generic", 24, 0),
    "boogu": ("Boogu", "generic", "generic", 108, 0),
    "joyimage": ("JoyImage", "generic", "generic", 48, 0),
    "trellis2": ("Trellis2", "generic", "generic", 588, 0),
    "triposplat": ("TripoSplat", "generic", "generic", 88, 0),
    "minimax-music3": ("MiniMaxMusic3", "generic", "generic", 136, 0),
    "hidream-o1": ("HiDreamO1", "generic", "generic", 338, 0),
    "t5-xxl": ("T5_XXL", "t5", "t5", 40, 100),
    "umt5-xxl": ("T5_XXL", "t5", "t5", 40, 100),
    "t5-xxl-old": ("T5_XXL_OLD", "t5", "t5", 20, 100),
    "qwen2.5-vl-7b": ("QWEN25_7B", "qwen2.5-vl", "text-encoder", 72, 96),
    "qwen2.5-vl-3b": ("QWEN25_3B", "qwen2.5-vl", "text-encoder", 96, 128),
    "qwen3-0.6b": ("QWEN3_06B", "qwen3", "text-encoder", 72, 96),
    "qwen3-4b": ("QWEN3_4B", "qwen3", "text-encoder", 96, 128),
    "qwen3-8b": ("QWEN3_8B", "qwen3", "text-encoder", 96, 128),
    "qwen3-vl-8b": ("QWEN3VL_8B", "qwen3", "text-encoder", 96, 128),
    "qwen3.5-2b": ("QWEN35_2B", "qwen3.5", "text-encoder", 60, 20),
    "gemma-2-2b": ("GEMMA_2_2B", "gemma", "text-encoder", 66, 88),
    "gemma-3-4b": ("GEMMA_3_4B", "gemma", "text-encoder", 90, 120),
    "gemma-3-4b-vision": ("GEMMA_3_4B_VISION", "gemma", "text-encoder", 90, 120),
    "gemma-3-12b": ("GEMMA_3_12B", "gemma", "text-encoder", 132, 176),
    "gemma-4-e4b": ("GEMMA_4_E4B", "gemma", "text-encoder", 114, 152),
    "gemma-4-12b": ("GEMMA_4_12B", "gemma", "text-encoder", 132, 169),
    "mistral-3-24b": ("MISTRAL3_24B", "mistral", "text-encoder", 108, 144),
    "ministral-3-3b": ("MINISTRAL_3_3B", "mistral", "text-encoder", 66, 88),
    "llama-3-8b": ("LLAMA3_8", "mistral", "text-encoder", 84, 112),
}  # fmt: skip


@pytest.fixture(scope="module")
def examined(run_in_comfy: Any) -> dict[str, Any]:
    models: dict[str, Any] = run_in_comfy("families", timeout=1800)["models"]
    return models


def test_every_model_of_the_script_is_expected(examined: dict[str, Any]) -> None:
    assert examined.keys() == MODELS.keys()


@pytest.mark.parametrize("name", MODELS)
def test_family_and_recipe(examined: dict[str, Any], name: str) -> None:
    model, family, recipe, nvfp4, fp8 = MODELS[name]
    found = examined[name]
    assert (found["model"].removeprefix("TEModel."), found["family"]) == (model, family)
    plan = found["plans"]["default"]
    if recipe == "refused":
        assert "quantizes no layer of family.safetensors (unknown model)" in plan["refused"]
        return
    assert (plan["family"], plan["recipe"]) == (family, recipe)
    assert (plan["formats"].get(N, 0), plan["formats"].get(F, 0)) == (nvfp4, fp8)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("recipe", ["default", "default from FP8", "weight-only"])
def test_comfyui_recognises_and_loads_the_planned_file(examined: dict[str, Any], name: str, recipe: str) -> None:
    """The same class and configuration, no key missed, none left over, no size mismatch, every packed layer packed."""
    plan = examined[name]["plans"][recipe]
    if recipe != "weight-only" and MODELS[name][2] == "refused":
        assert "refused" in plan
        return
    assert plan["same"], "ComfyUI would build another model from the planned file"
    # A router in raw FP8 inside the blocks gets a scale of 1 that nothing reads: its module is no Linear.
    idle = {f"{layer}.{part}" for layer in examined[name]["not_linear"] for part in ("weight_scale", "comfy_quant")}
    assert set(plan["problems"]) <= idle if recipe == "default from FP8" else plan["problems"] == []
    assert plan["loaded"].get(N, 0) == plan["formats"].get(N, 0)
    if recipe != "default from FP8":  # where raw FP8 outside the blocks stays without tag
        assert plan["loaded"].get(F, 0) == plan["formats"].get(F, 0)


@pytest.mark.parametrize("name", MODELS)
def test_the_guard_covers_what_trial_finds(examined: dict[str, Any], name: str) -> None:
    """``sniffed``: packing this weight alone changes what ComfyUI detects. ``not_linear``: its module is no Linear."""
    found = examined[name]
    assert found["holes"] == []
    assert len(found["unneeded"]) <= 20, "the guard keeps layers for nothing"


def test_every_pattern_of_the_guard_is_needed_by_some_model(examined: dict[str, Any]) -> None:
    """No pattern is kept by habit: each matches a weight that trial found."""
    found: dict[str, set[str]] = {}
    encoders = {signature.name: "text encoder" for signature in TEXT_ENCODERS}
    for model in examined.values():
        kind = encoders.get(model["family"], model["family"])
        found.setdefault(kind, set()).update(model["sniffed"], model["not_linear"])
    unneeded = {
        pattern
        for signature in (*SIGNATURES, *TEXT_ENCODERS)
        for pattern in (*signature.guard, *signature.not_linear)
        for layers in [found.get(encoders.get(signature.name, signature.name), set())]
        if signature.name != "diffusers" and not any(re.fullmatch(pattern, layer) for layer in layers)
    }
    assert unneeded == LOADER_ONLY
