"""What goes into and comes out of a decoding batch."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
from torch import Tensor


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


class Forward(Protocol):
    """One forward pass of a mixed batch; it appends to the cache it is given."""

    def __call__(
        self,
        adapters: Sequence[str | None],
        *,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past_key_values: Any,
    ) -> Tensor:
        """Return the logits [rows, vocabulary] of each row's last column."""
        ...
