"""Which modules of a diffusion model are Linear layers to be observed, and why each other one is not."""

from __future__ import annotations

from torch import nn

_COMPILED = "_orig_mod"
"""Module name that torch.compile puts between a compiled module and its children."""


def linear_layers(root: nn.Module) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Linear layers below `root` by name, and name -> reason for matrix layers that cannot be observed.

    ComfyUI's mixed-precision Linear does not derive from torch's, so a class named "Linear" that tells its
    `in_features` and `out_features` counts as well. A module is left out, and listed, when it has those two
    numbers but multiplies in a way that a hook on it does not see: expert banks, attention projections that
    torch fuses, and the like. A module reachable by several names is listed under the first.
    """
    layers: dict[str, nn.Module] = {}
    left_out: dict[str, str] = {}
    fused: dict[int, str] = {}
    for name, module in root.named_modules():
        clean = plain_name(name)
        if isinstance(module, nn.MultiheadAttention):
            fused[id(module.out_proj)] = clean
        shape = features(module)
        if shape is None:
            continue
        kind = type(module).__name__
        if id(module) in fused:
            left_out[clean] = f"MultiheadAttention ({fused[id(module)] or 'the model'}) multiplies without calling it"
        elif not (isinstance(module, nn.Linear) or kind == "Linear"):
            left_out[clean] = f"{kind} multiplies without calling a Linear layer"
        elif 0 in shape:
            left_out[clean] = f"its shape is not known yet ({shape[1]} x {shape[0]})"
        else:
            layers[clean] = module
    return layers, left_out


def features(module: nn.Module) -> tuple[int, int] | None:
    """(in_features, out_features) where a module declares both as integers, else None."""
    inputs, outputs = getattr(module, "in_features", None), getattr(module, "out_features", None)
    return (inputs, outputs) if isinstance(inputs, int) and isinstance(outputs, int) else None


def plain_name(name: str) -> str:
    """The name without the steps that torch.compile adds ("_orig_mod.blocks.0" -> "blocks.0")."""
    return ".".join(part for part in name.split(".") if part != _COMPILED)
