# ruff: noqa: I001  (ComfyUI must be set up before it is imported)
"""Calibration while a user's workflow does what workflows do: LoRA, ControlNet, guidance, regions, tiles, offloading."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from bootstrap import answer

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.sd
import mini_models
import nodes
import torch
from comfy_extras.nodes_custom_sampler import DualCFGGuider, DualModelGuider, SamplerCustomAdvanced
from comfy_extras.nodes_custom_sampler import BasicGuider, Noise_RandomNoise
from comfy_extras.nodes_easycache import EasyCacheNode
from comfy_extras.nodes_torch_compile import TorchCompileModel
from small_models import conditioning, write_flux
from watching import WORK, Sampling, calibrated, compare, path_of

from custom_nodes_nvfp4.calibration import load

STEPS = 4
Result = dict[str, Any]


def latent(batch: int = 2, channels: int = 16) -> torch.Tensor:
    return torch.zeros(batch, channels, 8, 8)


def sampling(
    positive: Any = None, negative: Any = None, cfg: float = 2.5, start: torch.Tensor | None = None
) -> Sampling:
    """KSampler."""
    positive, negative = positive or conditioning(seed=1), negative or conditioning(seed=2)
    samples = {"samples": latent() if start is None else start}

    def sample(model: Any) -> torch.Tensor:
        return nodes.common_ksampler(model, 7, STEPS, cfg, "euler", "simple", positive, negative, samples)[0]["samples"]

    return sample


def guided(guider_of: Any) -> Sampling:
    """A guider's own sampling."""

    def sample(model: Any) -> torch.Tensor:
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
        empty = latent(1)
        noise = comfy.sample.prepare_noise(empty, 7)
        return guider_of(model).sample(noise, empty, comfy.samplers.sampler_object("euler"), sigmas, seed=7)

    return sample


def lora(model: Any) -> dict[str, torch.Tensor]:
    """A LoRA for every Linear in the blocks, strong enough to be seen in their inputs."""
    generator = torch.Generator().manual_seed(5)
    weights = {}
    for name, module in model.model.diffusion_model.named_modules():
        if hasattr(module, "in_features") and "_blocks." in name:
            up, down = f"diffusion_model.{name}.lora_up.weight", f"diffusion_model.{name}.lora_down.weight"
            weights[up] = torch.randn(module.out_features, 4, generator=generator) * 0.2
            weights[down] = torch.randn(4, module.in_features, generator=generator) * 0.2
    return weights


@contextlib.contextmanager
def memory_for(size: float) -> Iterator[None]:
    """Let ComfyUI load models as it does on a GPU with room for `size` bytes of weights; --novram gives 0.1."""
    load_model = comfy.model_management.LoadedModel.model_load
    comfy.model_management.unload_all_models()

    def load_some(loaded: Any, lowvram_model_memory: float = 0, force_patch_weights: bool = False) -> Any:
        return load_model(loaded, size, force_patch_weights)

    comfy.model_management.LoadedModel.model_load = load_some
    try:
        yield
    finally:
        comfy.model_management.LoadedModel.model_load = load_model
        comfy.model_management.unload_all_models()


def placed(model: Any) -> Result:
    """How many modules ComfyUI keeps out of VRAM and in it, and how many weights it patches while they are used."""
    parts = [part for part in model.model.diffusion_model.modules() if hasattr(part, "comfy_cast_weights")]
    offloaded = [part for part in parts if hasattr(part, "prev_comfy_cast_weights")]
    functions = sum(len(part.weight_function) for part in parts)
    return {"offloaded": len(offloaded), "loaded": len(parts) - len(offloaded), "patched_in_use": functions}


def loras(model: Any, result: Result) -> None:
    merged, _ = comfy.sd.load_lora_for_models(model, None, lora(model), 0.75, 0)
    bypass, _ = comfy.sd.load_bypass_lora_for_models(model, None, lora(model), 0.75, 0)
    result["LoRA merged"] = compare("lora-merged", merged, sampling())
    result["LoRA beside the weights"] = compare("lora-bypass", bypass, sampling())
    with memory_for(0.1):
        result["LoRA, no VRAM"] = compare("lora-no-vram", merged, sampling()) | placed(merged)
    result["after the LoRAs"] = compare("after-lora", model, sampling())


def offloaded(model: Any, result: Result) -> None:
    """Moved out of memory between two samplings into one file, and between two halves of one."""
    watched = calibrated(model, "offloaded")
    for seed in (1, 2):
        nodes.common_ksampler(
            watched, seed, STEPS, 1.0, "euler", "simple", conditioning(), conditioning(), {"samples": latent(1)}
        )
        comfy.model_management.unload_all_models()
    result["offloaded"] = {"counts": counts("offloaded")}


def guidance(model: Any, result: Result) -> None:
    twice = [[torch.cat([conditioning(seed=2)[0][0]] * 2, 1), conditioning(seed=2)[0][1]]]
    result["cfg 1"] = compare("cfg1", model, sampling(cfg=1.0))
    result["both passes in one call"] = compare("cfg", model, sampling())
    result["passes in separate calls"] = compare("cfg-apart", model, sampling(negative=twice))
    strongest = {seed: float(conditioning(seed=seed)[0][0].abs().max()) for seed in (1, 2, 3)}

    def dual_prompts(watched: Any) -> Any:
        prompts = (conditioning(seed=seed) for seed in (1, 3, 2))
        return DualCFGGuider.execute(watched, *prompts, 2.0, 1.5, "regular")[0]

    def dual_models(watched: Any) -> Any:
        return DualModelGuider.execute(watched, conditioning(seed=1), 2.0, watched, conditioning(seed=2))[0]

    result["DualCFGGuider"] = compare("dual-cfg", model, guided(dual_prompts))
    result["DualModelGuider"] = compare("dual-model", model, guided(dual_models))
    for name, key in (
        ("both passes in one call", "cfg"),
        ("DualCFGGuider", "dual-cfg"),
        ("DualModelGuider", "dual-model"),
    ):
        seen = load(path_of(key)).layers["txt_in"].schedule_amax.amax(1).tolist()
        positive = max(strongest[1], strongest[3]) if key == "dual-cfg" else strongest[1]
        result[name]["text_amax"] = {"seen": seen, "given": [positive, strongest[2]]}


def regions(model: Any, result: Result) -> None:
    """Two areas, and a mask over them."""
    mask = torch.zeros(1, 64, 64)
    mask[:, :32] = 1
    left = nodes.ConditioningSetArea().append(conditioning(seed=1), 32, 64, 0, 0, 1.0)[0]
    right = nodes.ConditioningSetArea().append(conditioning(seed=3), 32, 64, 32, 0, 1.0)[0]
    masked = nodes.ConditioningSetMask().append(conditioning(seed=4), mask, "default", 1.0)[0]
    result["regions"] = compare("regions", model, sampling([*left, *right, *masked]))


def tiles(model: Any, result: Result) -> None:
    """What nodes for large pictures do: each step calls the model once per tile."""

    def each_half(apply_model: Any, call: Result) -> torch.Tensor:
        halves = call["input"].chunk(2, dim=-1)
        return torch.cat([apply_model(half, call["timestep"], **call["c"]) for half in halves], dim=-1)

    tiled = model.clone()
    tiled.set_model_unet_function_wrapper(each_half)
    result["tiles"] = compare("tiles", tiled, sampling())


def compiled(model: Any, result: Result) -> None:
    for name, changed in (
        ("compiled", TorchCompileModel.execute(model, "inductor")[0]),
        ("blocks compiled", model.clone()),
    ):
        if name == "blocks compiled":
            block = torch.compile(model.model.diffusion_model.double_blocks[0])
            changed.add_object_patch("diffusion_model.double_blocks.0", block)
        result[name] = compare(name, changed, sampling(), plain=model)
    comfy.model_management.unload_all_models()


def skipped_steps(model: Any, result: Result) -> None:
    """EasyCache answers some steps without running the model's layers."""
    cached = EasyCacheNode.execute(model, 10.0, 0.1, 0.95, False)[0]
    result["EasyCache"] = compare("easy-cache", cached, sampling())
    result["EasyCache"]["calls"] = load(path_of("easy-cache")).layers["img_in"].calls


def samplers(model: Any, result: Result) -> None:
    """KSampler (Advanced) in two halves, and SamplerCustomAdvanced after them."""

    def halves(watched: Any) -> torch.Tensor:
        prompts = (conditioning(seed=1), conditioning(seed=2))
        shared = (7, STEPS, 2.5, "euler", "simple", *prompts)
        advanced = nodes.KSamplerAdvanced()
        first = advanced.sample(watched, "enable", *shared, {"samples": latent()}, 0, 2, "enable")[0]
        return advanced.sample(watched, "disable", *shared, first, 2, STEPS, "disable")[0]["samples"]

    def custom(watched: Any) -> torch.Tensor:
        guider = BasicGuider.execute(watched, conditioning(seed=1))[0]
        sigmas = comfy.samplers.calculate_sigmas(watched.get_model_object("model_sampling"), "simple", STEPS)
        noise, euler = Noise_RandomNoise(7), comfy.samplers.sampler_object("euler")
        return SamplerCustomAdvanced.execute(noise, guider, euler, sigmas, {"samples": latent()})[0]["samples"]

    result["two halves"] = compare("halves", model, halves)
    result["SamplerCustomAdvanced"] = compare("custom", model, custom)


def two_models(model: Any, result: Result) -> None:
    """Two models turn by turn, as two samplers in one workflow do."""
    write_flux(str(WORK / "other.safetensors"), seed=4, fp8=False)
    other = comfy.sd.load_diffusion_model(str(WORK / "other.safetensors"))
    result["first model alone"] = compare("first-alone", model, sampling())
    result["second model alone"] = compare("second-alone", other, sampling())
    first, second = calibrated(model, "first"), calibrated(other, "second")
    result["two models"] = {"counts": []}
    for watched in (first, second):
        sampling()(watched)
    for name in ("first", "second"):
        result["two models"]["counts"].append(counts(name))
        result["two models"][name] = load(path_of(name)).same_as(load(path_of(f"{name}-alone")))


def counts(name: str) -> list[int]:
    found = load(path_of(name))
    return [found.samplings, found.images, found.steps]


def unet_patches(result: Result) -> None:
    """ControlNet, and attention patches as an IP-Adapter sets them, with layers of its own."""
    unet = mini_models.unet()
    positive, negative = mini_models.text(6, 24, 1), mini_models.text(6, 24, 2)
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    control = mini_models.unet_controlnet()
    with_control = nodes.ControlNetApplyAdvanced().apply_controlnet(positive, negative, control, picture, 1.0, 0, 1)
    empty = latent(2, 4)
    result["plain UNet"] = compare("unet", unet, sampling(positive, negative, start=empty))
    result["ControlNet"] = compare("controlnet", unet, sampling(*with_control[:2], start=empty))

    patched = unet.clone()
    keys = [key for key in unet.model.state_dict() if key.endswith("attn2.to_k.weight")]
    patched.add_patches({key: ("diff", (torch.ones_like(unet.model.state_dict()[key]),)) for key in keys}, 0.1)
    with memory_for(unet.model_size() * 0.6):
        name = "LoRA, little VRAM"
        result[name] = compare("little-vram", patched, sampling(positive, negative, start=empty)) | placed(patched)

    adapter = torch.nn.Linear(24, 32)
    mini_models.fill(adapter)

    def with_picture(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: Result) -> torch.Tensor:
        heads = extra["n_heads"]
        tokens = adapter(positive[0][0])[..., : k.shape[-1]].expand(len(k), -1, -1)
        attention = comfy.ldm.modules.attention.optimized_attention
        return attention(q, k, v, heads) + attention(q, tokens, tokens, heads)

    adapted = unet.clone()
    adapted.set_model_attn2_replace(with_picture, "input", 1)
    adapted.set_model_attn1_patch(lambda q, k, v, extra: (q * 1.5, k, v))
    adapted.set_model_attn2_patch(lambda q, k, v, extra: (q, k, v * 0.5))
    adapted.set_model_attn1_output_patch(lambda out, extra: out * 2)
    result["IP-Adapter"] = compare("ip-adapter", adapted, sampling(positive, negative, start=empty))
    largest = {
        key: {name: layer.amax for name, layer in load(path_of(key)).layers.items()}
        for key in ("unet", "ip-adapter", "controlnet")
    }
    for name, key in (("IP-Adapter", "ip-adapter"), ("ControlNet", "controlnet")):
        result[name]["moved"] = sum(largest[key][layer] != amax for layer, amax in largest["unet"].items())


def main() -> None:
    write_flux(str(WORK / "flux.safetensors"))
    flux = comfy.sd.load_diffusion_model(str(WORK / "flux.safetensors"))
    result: Result = {}
    for situation in (loras, offloaded, guidance, regions, tiles, compiled, skipped_steps, samplers, two_models):
        situation(flux, result)
    unet_patches(result)
    answer(**result)


main()
