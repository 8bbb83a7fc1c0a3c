"""Aliases on the wire."""

from typing import Annotated

from msgspec import Meta

from service.wire import Input, Output

MOST_TARGETS = 8
MOST_WEIGHT = 1_000_000

LONGEST_REASON = 500
TEXT = r"^[^\x00]*$"
"""What every database can keep."""

Reason = Annotated[
    str,
    Meta(min_length=1, max_length=LONGEST_REASON, pattern=TEXT, description="Why; kept for ever."),
]


class TargetChoice(Input):
    """A revision that an alias shall name."""

    revision: Annotated[
        str, Meta(min_length=1, max_length=64, description="A revision, short or as whole digest.")
    ]
    weight: Annotated[
        int, Meta(ge=1, le=MOST_WEIGHT, description="Its share, in proportion to the others'.")
    ] = 1


class MoveAlias(Input):
    """What an alias shall name from now on. Several targets are a canary."""

    targets: Annotated[list[TargetChoice], Meta(min_length=1, max_length=MOST_TARGETS)]
    reason: Reason


class RollBackAlias(Input):
    """Why an alias shall name again what it named before."""

    reason: Reason


class AliasTarget(Output):
    """A revision that an alias names, by its whole digest."""

    revision: str
    weight: int


class Alias(Output):
    """An alias at one of its versions, and who made it that, when and why."""

    object: str
    adapter: str
    alias: str
    version: Annotated[int, Meta(description="Counts up at every change; also the ETag.")]
    targets: Annotated[list[AliasTarget], Meta(description="None where it was deleted.")]
    reason: str | None
    key_id: Annotated[str | None, Meta(description="The API key; null when a job published.")]
    created_at: int


class AliasList(Output):
    """A page of aliases by name; the next page's `after` is `last_id`."""

    object: str
    data: list[Alias]
    first_id: str | None
    last_id: str | None
    has_more: bool


class AliasHistory(Output):
    """A page of an alias's versions, newest first; the next page's `after` is `last_id`."""

    object: str
    data: list[Alias]
    first_id: str | None
    last_id: str | None
    has_more: bool
