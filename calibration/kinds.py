"""Layers of one type: names with the block's number taken out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

NUMBER = "N"


def kinds(names: Iterable[str]) -> dict[str, str]:
    """Name -> type, for every name: "blocks.7.attn.to_q" -> "blocks.N.attn.to_q".

    A number is a block's when it is not the name's end and another number stands in its place with the same
    words before and after. So "mlp.0" and "mlp.2", two layers of one MLP, remain two types, as do
    "net.0.proj" and "net.2".
    """
    split = {name: name.split(".") for name in names}
    siblings: dict[tuple[tuple[str, ...], tuple[str, ...]], set[str]] = defaultdict(set)
    for parts in split.values():
        for place in _numbers(parts):
            siblings[tuple(parts[:place]), tuple(parts[place + 1 :])].add(parts[place])
    return {
        name: ".".join(
            NUMBER
            if place in _numbers(parts) and len(siblings[tuple(parts[:place]), tuple(parts[place + 1 :])]) > 1
            else part
            for place, part in enumerate(parts)
        )
        for name, parts in split.items()
    }


def _numbers(parts: list[str]) -> list[int]:
    """The places of numbers before the last part."""
    return [place for place, part in enumerate(parts[:-1]) if part.isdecimal()]
