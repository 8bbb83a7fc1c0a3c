"""Checks that rows and messages share; each reason is a sentence that one can act on. Pure."""

from collections.abc import Mapping, Set
from typing import Any


class Unusable(Exception):
    """Why a line cannot be trained on."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def no_other_keys(given: Mapping[str, Any], known: Set[str], where: str) -> None:
    """Refuse a key that would otherwise be dropped in silence."""
    for key in given:
        if key not in known:
            raise Unusable(f'unknown key "{key[:64]}" in {where}')


def text_of(row: Mapping[str, Any], key: str, *, empty: bool = False) -> str:
    """Read a text that must be there and, unless `empty`, hold more than white space."""
    if key not in row:
        raise Unusable(f'"{key}" is missing')
    value = row[key]
    if not isinstance(value, str):
        raise Unusable(f'"{key}" must be a string')
    if not empty and not value.strip():
        raise Unusable(f'"{key}" is empty')
    return value
