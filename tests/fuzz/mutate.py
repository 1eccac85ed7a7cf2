"""Mutations of bytes and of JSON, all drawn from one seeded generator: an input is known by its number."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

TOKENS = (
    b"0", b"-1", b"1e999", b"NaN", b"Infinity", b"null", b"true", b"[]", b"{}", b'""', b'"\\ud800"', b'"\\u0000"',
    b"9223372036854775807", b"18446744073709551616", b"4611686018427387904", b"9" * 400, b"[" * 200, b'{"a":' * 200,
    b'"__metadata__"', b'"data_offsets"', b'"shape"', b'"dtype"', b'"F8_E8M0"', b'"_quantization_metadata"',
    b'"../x"', b'"/etc/passwd"', b'"x.safetensors"', b"\xff\xfe", b"\x00", b"\x1b[2J", b"\xed\xa0\x80",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**53, 2**53 + 1, 2**62, 2**63, 2**64, 10**30, -(2**63), 0.5, -0.0, 1e-320,
    3.4e38, 1e39, float("inf"), float("nan"), "", "a", "a\nb", "\x1b[2J", "\ud800", "x" * 5000, "../x", "/x", "nvfp4",
    "float8_e4m3fn", "mxfp8", "F32", "U8", "I64", [], [[]], [0], [0, 0], [1 << 40, 1 << 40], [-1], [1.5], {}, {"a": {}},
)  # fmt: skip


def mutated_bytes(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """One to six changes of bytes: flips, cuts, repeats, known tokens, pieces of another seed."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        size = len(result)
        at = rng.randrange(size + 1)
        length = min(size - at, rng.choice((1, 1, 2, 4, 8, 32, 256)))
        kind = rng.randrange(7)
        if kind == 0 and size:
            result[at % size] ^= 1 << rng.randrange(8)
        elif kind == 1 and size:
            result[at % size] = rng.randrange(256)
        elif kind == 2:
            del result[at : at + length]
        elif kind == 3:
            result[at:at] = result[at : at + length] * rng.choice((1, 2, 50))
        elif kind == 4:
            result[at : at + rng.choice((0, length))] = rng.choice(TOKENS)
        elif kind == 5:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            result[at:at] = other[start : start + rng.choice((8, 64, 512))]
        else:
            result[at : at + length] = rng.randbytes(length)
    return bytes(result)


def mutated_json(value: Any, rng: random.Random) -> Any:
    """One to four changes of nodes of a JSON value: replaced, removed, repeated, renamed, swapped, nested."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        value = _changed(value, rng)
    return value


def _changed(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        return _changed_table(dict(value), key, rng)
    if isinstance(value, list) and value and rng.random() < 0.9:
        result, at = list(value), rng.randrange(len(value))
        kind = rng.randrange(6)
        if kind == 0:
            del result[at]
        elif kind == 1:
            result.insert(at, result[at])
        elif kind == 2:
            result.insert(at, rng.choice(VALUES))
        else:
            result[at] = _changed(result[at], rng)
        return result
    kind = rng.randrange(8)
    if kind == 0:
        return [value]
    if kind == 1:
        return {"a": value}
    if kind == 2 and isinstance(value, int):
        return value + rng.choice((-1, 1, 1 << 20))
    if kind == 3 and isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        return value[:at] + rng.choice(("", "\0", ".", "..", "/", "\u202e", "\ud83d", "é")) + value[at:]
    if kind == 4:
        return str(value)
    return rng.choice(VALUES)


def _changed_table(value: dict[str, Any], key: str, rng: random.Random) -> dict[str, Any]:
    kind = rng.randrange(7)
    if kind == 0:
        del value[key]
    elif kind == 1:
        name = rng.choice((key + "x", key[:-1], "", "__metadata__", "\x1b", "weight", str(rng.randrange(100))))
        value[name] = value[key]
    elif kind == 2:
        other = rng.choice(list(value))
        value[key], value[other] = value[other], value[key]
    else:
        value[key] = _changed(value[key], rng)
    return value


def json_mutator(data: bytes, rng: random.Random, dumps: Callable[[Any], str] = json.dumps) -> bytes:
    """A mutated JSON text; bytes that are no JSON come back as they are."""
    try:
        return dumps(mutated_json(json.loads(data), rng)).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return data
