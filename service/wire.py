"""Base Structs for what crosses the wire.

Inputs refuse unknown fields. Outputs have no defaults: a default drops the field out of
`required` in the OpenAPI document, and generated clients then call it optional.
"""

import secrets
import time
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


class Input(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a client sends."""


class Output(msgspec.Struct, kw_only=True):
    """What a client gets."""


class Page(Output, Generic[T]):
    """One page of a list, as OpenAI's SDKs walk it: the next page's `after` is `last_id`."""

    object: str
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(Output):
    """The answer to a deletion."""

    id: str
    object: str
    deleted: bool


def new_id(prefix: str) -> str:
    """Make a prefixed, unguessable identifier."""
    return prefix + secrets.token_hex(12)


def now() -> int:
    """Unix time in whole seconds, as OpenAI's objects carry it."""
    return int(time.time())
