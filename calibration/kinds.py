"""Layers of one type: names with the block's number taken out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

NUMBER = "N"


def kinds(names: Iterable[str]) -> dict[str, str]:
    """Name -> type, for every name: "blocks.7.attn.to_q" -> "blocks.N.attn.to_q".

    A number is a block's when it is not the name's end and another name differs from this one in its numbers
    only, this one among them. So "mlp.0" and "mlp.2", two layers of one MLP, remain two types, as do
    "net.0.proj" and "net.2".
    """
    split = {name: name.split(".") for name in names}
    found: dict[tuple[str, ...], dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for parts in split.values():
        for place in _numbers(parts):
            found[_pattern(parts)][place].add(parts[place])
    types = {}
    for name, parts in split.items():
        varying = {place for place, numbers in found[_pattern(parts)].items() if len(numbers) > 1}
        types[name] = ".".join(NUMBER if place in varying else part for place, part in enumerate(parts))
    return types


def _pattern(parts: list[str]) -> tuple[str, ...]:
    numbers = set(_numbers(parts))
    return tuple("" if place in numbers else part for place, part in enumerate(parts))


def _numbers(parts: list[str]) -> list[int]:
    """The places of numbers before the last part."""
    return [place for place, part in enumerate(parts[:-1]) if part.isdecimal()]
