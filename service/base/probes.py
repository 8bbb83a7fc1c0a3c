"""Sequences by which two ways to compute an adapter are compared. No torch."""

from typing import Literal

import msgspec


class Probe(msgspec.Struct, frozen=True):
    """A sequence, and its trainer's log-probabilities of its tokens from the second on."""

    tokens: list[int]
    base: list[float] = []
    """Of the bare base; empty, as is the other, for an adapter that was not trained here."""
    adapter: list[float] = []


class Measured(msgspec.Struct, frozen=True):
    """An example, and which of its tokens carry loss: their places, never the first."""

    tokens: list[int]
    learned: list[int]


class HeldOut(msgspec.Struct, frozen=True):
    """Examples on which an adapter is compared with the base."""

    examples: list[Measured] = []
    source: Literal["validation", "training"] = "validation"
    beta: float | None = None
    """Of preferences: the examples are pairs then, each with the preferred one first."""


class Probes(msgspec.Struct, frozen=True):
    """All that an adapter is examined by. There is at least one probe."""

    probes: list[Probe]
    held_out: HeldOut = HeldOut()
    blank: bool = False
    """Whether its files were seen to change nothing: every B is zero."""
