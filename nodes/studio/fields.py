"""Fields of a request, checked: what is missing or of another type is refused with one sentence."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..guard import Refused

MAX_NAME = 1000
"""Characters of a name or an id."""


def name_in(fields: Mapping[str, Any], key: str) -> str:
    """A name or an id that must be there."""
    value = fields.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME:
        raise Refused(400, f'Give a "{key}": the name or id of one thing of the list.')
    return value


def optional_name(fields: Mapping[str, Any], key: str) -> str | None:
    """A name or an id, None where it is missing, null or empty."""
    return name_in(fields, key) if fields.get(key) not in (None, "") else None


def names_in(fields: Mapping[str, Any], key: str, most: int) -> list[str]:
    """A list of one to ``most`` names."""
    values = fields.get(key)
    if not isinstance(values, list) or not 0 < len(values) <= most:
        raise Refused(400, f'Give "{key}": a list of 1 to {most} names.')
    return [name_in({key: value}, key) for value in values]


def flag_in(fields: Mapping[str, Any], key: str) -> bool:
    """A switch, off where it is missing or null."""
    value = fields.get(key)
    if value is not None and not isinstance(value, bool):
        raise Refused(400, f'The "{key}" must be true or false.')
    return value is True


def choice_in(fields: Mapping[str, Any], key: str, choices: Collection[str], default: str) -> str:
    """One of a few words; ``default`` where it is missing or null."""
    value = fields.get(key)
    if value is None:
        return default
    if not isinstance(value, str) or value not in choices:
        raise Refused(400, f"There is no {key} {str(value)[:80]!r}: choose one of {', '.join(choices)}.")
    return value
