"""What goes into and comes out of a decoding batch. No torch."""

from collections.abc import Callable

import msgspec


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence to generate. Rows of equal `prompt_id` have equal prompt and adapter."""

    key: int
    prompt_id: int
    adapter: str | None
    """The adapter's name in the model; None is the base."""
    prompt: list[int]
    temperature: float
    top_p: float
    logprobs: int | None
    chance: Callable[[], float]
    """Draws the row's own next number in [0, 1)."""


class Pick(msgspec.Struct, frozen=True):
    """The next token of a row; `logprob` and `top` (token, logprob) only if it asked."""

    key: int
    token: int
    logprob: float | None
    top: list[tuple[int, float]]


class Round(msgspec.Struct):
    """What one round brought: tokens, and the rows that a failed forward pass lost."""

    picks: list[Pick] = []
    lost: list[int] = []
    faults: list[Exception] = []
