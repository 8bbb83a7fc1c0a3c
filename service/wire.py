"""Base Structs for what crosses the wire.

Inputs refuse unknown fields. Outputs have no defaults: a default drops the field out of
`required` in the OpenAPI document, and generated clients then call it optional.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TypeVar

import msgspec

P = TypeVar("P")
T = TypeVar("T")


class Input(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a client sends."""


class Output(msgspec.Struct, kw_only=True):
    """What a client gets."""


class Deleted(Output):
    """The answer to a deletion."""

    id: str
    object: str
    deleted: bool


def page(
    kind: Callable[..., P],
    data: Sequence[T],
    *,
    has_more: bool,
    id_of: Callable[[T], str] = attrgetter("id"),
) -> P:
    """Make one page of a list, as OpenAI's SDKs walk it: the next page's `after` is `last_id`."""
    return kind(
        object="list",
        data=data,
        first_id=id_of(data[0]) if data else None,
        last_id=id_of(data[-1]) if data else None,
        has_more=has_more,
    )


def new_id(prefix: str) -> str:
    """Make a prefixed, unguessable identifier."""
    return prefix + secrets.token_hex(12)


def now() -> int:
    """Unix time in whole seconds, as OpenAI's objects carry it."""
    return int(time.time())
