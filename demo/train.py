"""Train a demo model on CPU and write its FP8 checkpoint: ``python -m nvfp4_studio.demo.train [--layout sd3]``.

Rectified flow as ComfyUI samples Flux schnell: ``x = (1 - sigma) * picture + sigma * noise``, the network
predicts the velocity ``noise - picture`` and is told sigma itself (times 1000 inside the embedding). Only this
script needs scikit-learn.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .checkpoint import save_fp8
from .conditioning import class_conditioning
from .data import fold, load_digits
from .mmdit import MMDiT, MMDiTConfig
from .model import FluxConfig, FluxTransformer

HERE = Path(__file__).parent
CHECKPOINTS = {
    "flux": HERE / "assets" / "digits-flux-fp8.safetensors",
    "sd3": HERE.parent / "benchmarks" / "models" / "digits-sd3-fp8.safetensors",
}
TITLES = {"flux": "Flux.1", "sd3": "SD3.5"}


@dataclass(frozen=True)
class Settings:
    """Training settings, stored in the checkpoint's header.

    ``ema`` is the decay of the averaged weights that are kept; with 0.998 the average spans about 500 steps,
    a tenth of the run. ``autocast`` computes matrix products in BF16, 1.4 times as fast on CPUs with AVX512-BF16.
    """

    steps: int = 5000
    batch: int = 32
    learning_rate: float = 6e-4
    warmup: int = 200
    ema: float = 0.998
    weight_decay: float = 0.01
    seed: int = 20
    autocast: bool = True


def build(layout: str) -> FluxTransformer | MMDiT:
    """An untrained model of one of ``CHECKPOINTS``'s layouts."""
    return MMDiT(MMDiTConfig()) if layout == "sd3" else FluxTransformer(FluxConfig())


def initialise(model: nn.Module) -> None:
    """Residual branches start closed: gates, shifts and the last matrix are zero (adaLN-zero, Peebles & Xie 2023)."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
            if name.endswith((".lin", "adaLN_modulation.1", "final_layer.linear")):
                nn.init.zeros_(module.weight)


def flow_loss(model: nn.Module, latents: Tensor, labels: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the velocity at noise levels ``sigma`` [B]."""
    level = sigma[:, None, None, None]
    context, pooled = class_conditioning(labels)
    velocity = model((1.0 - level) * latents + level * noise, sigma, context, pooled)
    return (velocity.float() - (noise - latents)).square().mean()


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))


def train(settings: Settings, layout: str = "flux") -> tuple[FluxTransformer | MMDiT, float]:
    """Train from scratch. Returns the averaged model and its last smoothed loss.

    The same settings, torch version and CPU give the same weights: every random number comes from one
    generator seeded with ``settings.seed``.
    """
    torch.manual_seed(settings.seed)
    pictures, labels = load_digits()
    latents = fold(pictures)
    model = build(layout)
    initialise(model)
    average = copy.deepcopy(model).requires_grad_(False)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=settings.weight_decay
    )
    smoothed, started = math.nan, time.monotonic()
    for step in range(settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, settings)
        pick = torch.randint(len(latents), (settings.batch,))
        # One sigma per stratum of 0..1: the same expectation as independent draws with less variance.
        sigma = (torch.arange(settings.batch) + torch.rand(settings.batch)) / settings.batch
        noise = torch.randn_like(latents[pick])
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.autocast):
            loss = flow_loss(model, latents[pick], labels[pick], sigma, noise)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        decay = min(settings.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1.0 - decay)
        value = loss.item()
        smoothed = value if math.isnan(smoothed) else 0.99 * smoothed + 0.01 * value
        if (step + 1) % 100 == 0:
            print(
                f"step {step + 1}/{settings.steps}  loss {smoothed:.4f}  {time.monotonic() - started:.0f} s", flush=True
            )
    return average, smoothed


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a demo model on CPU and write its FP8 checkpoint.")
    parser.add_argument("--layout", choices=CHECKPOINTS, default="flux")
    parser.add_argument("--out", type=Path, help="default: the committed checkpoint of this layout")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--float", type=Path, help="also keep the float32 weights here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = Settings(steps=arguments.steps)
    model, loss = train(settings, arguments.layout)
    out = arguments.out or CHECKPOINTS[arguments.layout]
    about = {
        "title": f"nvfp4-studio demo: class-conditional digits in {TITLES[arguments.layout]}'s layout",
        "training_data": "scikit-learn load_digits (UCI ML hand-written digits)",
        "training_settings": json.dumps({**asdict(settings), "loss": round(loss, 4), "torch": torch.__version__}),
    }
    if arguments.float:
        torch.save(model.state_dict(), arguments.float)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_fp8(model.state_dict(), out, about)
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
