"""Stored formats: each declares the tensors of a layer before it writes them.

A format is a module with

* ``NAME``: ComfyUI's name (a key of its ``QUANT_ALGOS``);
* ``declare(shape) -> {suffix: (dtype, shape)}``: the tensors that ``encode`` returns;
* ``encode(weight, …) -> {suffix: tensor}``: weight [N, K] of a float dtype to stored tensors;
* ``decode(tensors, shape, first, last) -> Tensor``: float32 rows of the weight that ComfyUI will compute with.
"""

from __future__ import annotations

from . import fp8, nvfp4, tags

__all__ = ["fp8", "nvfp4", "tags"]
