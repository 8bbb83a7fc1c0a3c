"""Which of a task's rows an adapter is examined by: few, short, and its own. Pure."""

from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

import msgspec

from service.base.probes import HeldOut, Measured, Probe, Probes
from service.training.pairs import Pair
from service.training.prompts import Prompt
from service.training.rows import IGNORED, Row

T = TypeVar("T")

PROBES, PROBE_TOKENS = 4, 64
EXAMPLES, EXAMPLE_TOKENS = 32, 512
"""Of the held-out ones. Longer ones are cut: base and adapter see the same."""


def of_rows(train: Sequence[Row], validation: Sequence[Row]) -> Probes:
    """Choose from examples; without held-out ones, those that were learned have to do."""
    held_out = HeldOut(_measured(_drawn(validation, EXAMPLES)))
    if not held_out.examples:
        held_out = HeldOut(_measured(_drawn(train, EXAMPLES)), "training")
    return Probes(_probes([row.input_ids for row in [*train, *validation]]), held_out)


def of_pairs(train: Sequence[Pair], validation: Sequence[Pair], beta: float) -> Probes:
    """Choose from preferences."""
    pairs = _measured_pairs(validation)
    held_out = HeldOut(pairs, beta=beta)
    if not pairs:
        held_out = HeldOut(_measured_pairs(train), "training", beta)
    return Probes(_probes([pair.preferred.input_ids for pair in [*train, *validation]]), held_out)


def of_prompts(prompts: Sequence[Prompt]) -> Probes:
    """Choose from prompts, whose answers nobody knows: there is no loss to compare."""
    return Probes(_probes([prompt.input_ids for prompt in prompts]))


def _probes(rows: Sequence[Sequence[int]]) -> list[Probe]:
    # A single token has nothing to score: it is repeated.
    cut = [list(row[:PROBE_TOKENS]) if len(row) > 1 else [*row, *row] for row in rows[:PROBES]]
    return [Probe(tokens) for tokens in cut]


def _measured_pairs(pairs: Sequence[Pair]) -> list[Measured]:
    found = []
    for pair in _drawn(pairs, EXAMPLES // 2):
        both = _measured([pair.preferred, pair.other])
        found += both if len(both) == 2 else []
    return found


def _drawn(rows: Sequence[T], most: int) -> list[T]:
    """Draw some, each time the same: the first may be of one kind, and the gate begins there."""
    return Random(0).sample(rows, min(most, len(rows)))  # noqa: S311 - no secret


def _measured(rows: Sequence[Row]) -> list[Measured]:
    cut = [
        Measured(row.input_ids[:EXAMPLE_TOKENS], _learned(row.labels[:EXAMPLE_TOKENS]))
        for row in rows
    ]
    return [one for one in cut if one.learned]


def _learned(labels: Sequence[int]) -> list[int]:
    return [place for place, label in enumerate(labels) if label != IGNORED]


Score = Callable[[Sequence[Sequence[int]]], Sequence[Sequence[float]]]
"""Gives the log-probabilities of each sequence's tokens from the second on."""


class Prober:
    """Adds a trainer's scores to a task's probes: of the base once, and once after each step."""

    def __init__(self, probes: Probes, base: Score, adapter: Score) -> None:
        """`base` and `adapter` score with the weights that there are when they are called."""
        self._probes = probes
        self._asked = [probe.tokens for probe in probes.probes]
        self._score = base, adapter
        self._base: Sequence[Sequence[float]] = []
        self._scored: tuple[int, Probes] | None = None

    def begin(self) -> None:
        """Score by the base now: after the last step somebody waits for what was made."""
        self._base = self._base or self._score[0](self._asked)

    def after(self, step: int) -> Probes:
        """Score; the adapter's weights are those after the step."""
        if self._scored is None or self._scored[0] != step:
            self._scored = step, self._now()
        return self._scored[1]

    def _now(self) -> Probes:
        self.begin()
        each = zip(self._asked, self._base, self._score[1](self._asked), strict=True)
        probes = [Probe(tokens, list(one), list(other)) for tokens, one, other in each]
        return msgspec.structs.replace(self._probes, probes=probes)
