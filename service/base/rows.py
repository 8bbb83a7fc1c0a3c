"""What goes into and comes out of a decoding batch. No torch."""

from collections.abc import Callable, Collection
from typing import Protocol

import msgspec


class Structure(Protocol):
    """What a row's tokens must keep to; whoever reads them tells it what was picked."""

    @property
    def over(self) -> bool:
        """Whether nothing but an end may come."""
        ...

    def mask(self) -> bytes:
        """Tell which tokens may come next: a bit for each, the lowest of a byte first."""
        ...


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence to generate."""

    key: int
    adapter: str | None
    """The adapter's name in the model; None is the base."""
    salt: str
    """Whose it is: rows of different salts share nothing, whatever they have in common. Scored
    ones share nothing at all."""
    prompt: list[int]
    temperature: float
    top_p: float
    logprobs: int | None
    chance: Callable[[], float]
    """Draws the row's own next number in [0, 1)."""
    top_k: int = 0
    """0: all tokens."""
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    min_tokens: int = 0
    """How many tokens come before any of `ends` may be picked."""
    ends: Collection[int] = ()
    structure: Structure | None = None
    max_tokens: int | None = None
    """After how many tokens it is over anyway, for a model that ends rows by itself."""
    seed: int | None = None
    """What `chance` was begun with, for a model that draws by itself; None: by nothing given."""
    grammar: str | None = None
    """What its text keeps to, for a model that reads grammars by itself."""
    ahead: bool = False
    """Whether its prompt goes before others', as that of a tenant's only row."""
    scored: bool = False
    """Whether it is its prompt's log-probabilities that are wanted, and no token after it."""

    @property
    def adjusts(self) -> bool:
        """Whether it picks from other logits than the model's."""
        return self.penalises or bool(self.logit_bias) or self.min_tokens > 0

    @property
    def penalises(self) -> bool:
        """Whether its picks depend on the tokens before."""
        return (
            self.presence_penalty != 0
            or self.frequency_penalty != 0
            or self.repetition_penalty != 1
        )


class Pick(msgspec.Struct, frozen=True):
    """The next token of a row; `logprob` and `top` (token, logprob) only if it asked."""

    key: int
    token: int
    logprob: float | None
    top: list[tuple[int, float]]


class Score(msgspec.Struct, frozen=True):
    """Of a scored row: the log-probabilities of its tokens from the second on."""

    key: int
    logprobs: list[float]


class Round(msgspec.Struct):
    """What one round brought: tokens, rows that were lost, and the faults of every failed pass."""

    picks: list[Pick] = []
    lost: list[int] = []
    faults: list[Exception] = []
    scores: list[Score] = []
    """Of rows that are done with: they have left the batch."""


class KvUse(msgspec.Struct, frozen=True):
    """How the cache of keys and values fares."""

    used: int
    total: int
    """Blocks."""
    preemptions: int
    """Rows that had to go back and wait for blocks, since the start."""
    reused: int
    """Prompt tokens that were there already, since the start."""
