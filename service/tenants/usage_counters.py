"""What usage is counted by, and what is counted."""

from typing import Literal

import msgspec

DAY_SECONDS = 86_400

Kind = Literal["generated", "trained"]


class Counter(msgspec.Struct, frozen=True, order=True):
    """Who used what. With a day it is one row."""

    tenant_id: str
    kind: Kind
    key_id: str
    """Empty for the operator's key."""
    adapter: str
    """Empty for the base."""
    digest: str
    """The revision's; of `trained` the job's id, because its revision is not there before its end.

    Empty for the base.
    """
    model: str
    """The exact name, as answers give it; of `trained` the base's."""


class Amount(msgspec.Struct, frozen=True):
    """How much; `output_tokens` of `trained` are all that went through training."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(
            self.requests + other.requests,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
        )

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(
            self.requests - other.requests,
            self.input_tokens - other.input_tokens,
            self.output_tokens - other.output_tokens,
        )


def day_of(at: float) -> int:
    """Tell the first second, in UTC, of the day that holds this unix time."""
    return int(at) // DAY_SECONDS * DAY_SECONDS
