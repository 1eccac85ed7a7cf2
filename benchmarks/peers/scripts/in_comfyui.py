# ruff: noqa: E402  (ComfyUI reads its options before it is imported)
"""Load a file in stock ComfyUI on the CPU, compute one step, and compare with the source's.

    python in_comfyui.py COMFYUI FILE OUTPUT [REFERENCE]

Saves the model's output to OUTPUT and prints JSON: the layers by the format that ComfyUI loaded, and the
SQNR of the output against REFERENCE, an earlier OUTPUT. A CPU computes NVFP4 weights in full precision, so
the activations are not quantized.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter

COMFYUI, FILE, OUTPUT, *REFERENCE = sys.argv[1:]
sys.path.insert(0, COMFYUI)
sys.argv = ["main.py", "--cpu"]

import comfy.options

comfy.options.enable_args_parsing()

import comfy.model_management
import comfy.sd
import torch
from safetensors.torch import load_file, save_file

SIDE, TOKENS, TEXT = 16, 16, 3584


def main() -> None:
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(1, 16, 1, SIDE, SIDE, generator=generator)
    context = torch.randn(1, TOKENS, TEXT, generator=generator)
    patcher = comfy.sd.load_diffusion_model(FILE)
    comfy.model_management.load_models_gpu([patcher])
    model = patcher.model
    with torch.inference_mode():
        output = model.apply_model(latent, torch.tensor([0.5]), c_crossattn=context).float()
    save_file({"output": output.contiguous()}, OUTPUT)
    kinds = (getattr(module, "quant_format", None) for module in model.diffusion_model.modules())
    answer = {"formats": dict(Counter(kind for kind in kinds if kind)), "finite": bool(output.isfinite().all())}
    if REFERENCE:
        reference = load_file(REFERENCE[0])["output"]
        noise = float((reference - output).double().square().sum())
        answer["sqnr_db"] = 10 * math.log10(float(reference.double().square().sum()) / noise) if noise else None
    print("RESULT " + json.dumps(answer))


if __name__ == "__main__":
    main()
