"""The converters that `against_peers.py` runs, one file each. Nothing of theirs is in this repository."""

from . import comfy_dit_quantizer, comfy_quants, convert_nvfp4, convert_to_quant, kitchen_converter, nvfp4_studio
from .peer import Peer

OURS = nvfp4_studio.PEER
PEERS: tuple[Peer, ...] = (
    convert_to_quant.PEER,
    comfy_dit_quantizer.PEER,
    convert_nvfp4.PEER,
    kitchen_converter.PEER,
    comfy_quants.PEER,
)
NOT_RUN = {
    "NVIDIA/Model-Optimizer": "quantizes a model that runs in diffusers and does not convert a file; its rounding stands in benchmarks/output_error.py",
    "HSWQ": "scripts for SDXL",
    "starnodes-modelconverter": "a node bound to ComfyUI's own classes",
}
"""Converters left out, and why."""
