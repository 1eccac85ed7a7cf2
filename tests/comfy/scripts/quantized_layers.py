# ruff: noqa: E402, I001  (ComfyUI must be set up before it is imported)
"""One layer of every format in stock ComfyUI's mixed-precision Linear, against what a measurement computes."""

from __future__ import annotations

from bootstrap import answer, load_pack

import comfy.ops
import torch

load_pack()
from custom_nodes_nvfp4.converters.formats import POLICIES, Encoding, InputScale, Weight, tags
from custom_nodes_nvfp4.converters.stored import Encoded
from custom_nodes_nvfp4.converters.rounding import METHODS
from custom_nodes_nvfp4.converters.sensitivity.outputs import Computed, outputs

ROWS, OUTPUTS, INPUTS = 48, 64, 512
INPUT_SCALES = {"nvfp4": 0.02, "float8_e4m3fn": 0.1}
"""Small enough to clip the largest of ``inputs``."""


def inputs(dtype: torch.dtype) -> torch.Tensor:
    """Rows with channels that stick out."""
    found = torch.randn(ROWS, INPUTS, generator=torch.Generator().manual_seed(0))
    found[:, ::97] *= 30
    return found.to(dtype)


def difference_db(one: torch.Tensor, other: torch.Tensor) -> float:
    """How far apart, relative to the first."""
    noise = (one.double() - other.double()).square().sum()
    return float(10 * torch.log10(one.double().square().sum() / noise.clamp(min=1e-300)))


def case(policy: str, scaled: bool, full_precision: bool, smoothed: bool) -> dict[str, float]:
    """Stock ComfyUI's output against ours: in float32, in bfloat16, and how much quantizing the input matters."""
    stored = POLICIES[policy]
    weight = torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(1)) * 0.02
    factor = (1 / inputs(torch.float32).abs().mean(0).sqrt()).bfloat16() if smoothed else None
    encoded_weight = weight if factor is None else weight / factor.float()
    tag = tags.tag(stored.NAME, full_precision, stored.POLICIES[policy])
    tensors = stored.encode(Weight("layer", encoded_weight), Encoding(METHODS["nearest"], fields=tag))
    scale = INPUT_SCALES[policy] if scaled else None
    computed = Computed(
        stored.NAME,
        tag,
        not full_precision,
        scale,
        factor,
        stored.decoder(Encoded("layer", (OUTPUTS, INPUTS), tag, tensors)),
    )
    state = {**tensors, "comfy_quant": tags.tensor(tags.encode(tag))}
    if scale is not None:
        state["input_scale"] = torch.tensor(scale)
    if factor is not None:
        state["pre_quant_scale"] = factor
    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        layer = comfy.ops.mixed_precision_ops({}, dtype).Linear(INPUTS, OUTPUTS, bias=False, device="cpu")
        layer.load_state_dict({key: tensor.clone() for key, tensor in state.items()})
        with torch.inference_mode():
            theirs = layer(inputs(dtype).unsqueeze(0))[0]
        ours = outputs(computed.input(inputs(dtype)), computed.weight, (OUTPUTS, INPUTS))
        found[name] = difference_db(theirs, ours)
    plain = outputs(inputs(torch.float32), lambda first, last: weight[first:last], (OUTPUTS, INPUTS))
    found["error"] = difference_db(
        plain, outputs(computed.input(inputs(torch.float32)), computed.weight, plain.shape[::-1])
    )
    return found


def main() -> None:
    result = {}
    for policy, stored in POLICIES.items():
        result[policy] = case(
            policy, scaled=False, full_precision=stored.INPUT_SCALE is InputScale.NEEDED, smoothed=False
        )
        if stored.INPUT_SCALE is not InputScale.NONE:
            result[f"{policy} with input_scale"] = case(policy, scaled=True, full_precision=False, smoothed=False)
    result["nvfp4 with pre_quant_scale"] = case("nvfp4", scaled=True, full_precision=False, smoothed=True)
    result["nvfp4 in full precision"] = case("nvfp4", scaled=False, full_precision=True, smoothed=False)
    answer(**result)


main()
