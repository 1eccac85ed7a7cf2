"""Layers quantized by NVIDIA Model Optimizer on a CPU, run in an environment that has it.

    python model_optimizer.py CONFIG LAYERS.safetensors OUTPUTS.safetensors

LAYERS holds NAME.weight, NAME.seen (inputs to calibrate on) and NAME.fresh of each layer; OUTPUTS gets NAME.quantized and
NAME.emulated, what the layer computes of ``fresh`` with and without quantized inputs. Its fake quantization of blocks is a
CUDA kernel; here its own NVFP4QTensor, which packs weights on export, takes that kernel's place. Prints JSON.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from modelopt.torch import quantization
from modelopt.torch.quantization import tensor_quant
from modelopt.torch.quantization.qtensor import NVFP4QTensor
from safetensors.torch import load_file, save_file

E2M1_MAX, E4M3_MAX = 6.0, 448.0


def on_cpu(inputs: torch.Tensor, block_size: int, amax: torch.Tensor, *_: int) -> torch.Tensor:
    """What the CUDA kernel returns: the inputs rounded to NVFP4 under this amax."""
    rows = inputs.reshape(-1, inputs.shape[-1])
    scale = amax.float().amax() / (E2M1_MAX * E4M3_MAX)
    quantized, block_scale, _ = NVFP4QTensor.quantize(rows, block_size, weights_scaling_factor_2=scale)
    values = quantized.dequantize(scale=block_scale, double_scale=scale, block_sizes={-1: block_size})
    return values.reshape(inputs.shape).to(inputs.dtype)


def main() -> None:
    torch.set_num_threads(1)
    tensor_quant.dynamic_block_quantize_op = on_cpu
    config = getattr(quantization, sys.argv[1])
    given = load_file(sys.argv[2])
    found, seconds = {}, 0.0
    for key in [name.removesuffix(".weight") for name in given if name.endswith(".weight")]:
        weight, seen, fresh = (given[f"{key}.{name}"].float() for name in ("weight", "seen", "fresh"))
        model = torch.nn.Sequential(torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False))
        model[0].weight.data = weight
        started = time.process_time()
        model = quantization.quantize(model, config, lambda quantized, rows=seen: quantized(rows))
        seconds += time.process_time() - started
        with torch.no_grad():
            found[f"{key}.quantized"] = model(fresh)
            model[0].input_quantizer.disable_quant()
            found[f"{key}.emulated"] = model(fresh)
    save_file(found, sys.argv[3])
    print(json.dumps({"cpu_seconds": seconds}))


if __name__ == "__main__":
    main()
