"""Rendered examples as tensors, and the sweeps in which a task goes through them."""

import time
from collections.abc import Sequence

import msgspec
import torch
from torch import Tensor

from service.training.rows import IGNORED, Row


class Encoded(msgspec.Struct, frozen=True):
    """One example: its tokens, the places that predict a learned one, and those tokens."""

    ids: Tensor
    predicting: Tensor
    targets: Tensor

    @property
    def length(self) -> int:
        """Count its tokens."""
        return len(self.ids)


class Piece(msgspec.Struct, frozen=True):
    """What one task contributes to a row."""

    examples: Sequence[Encoded]
    dropout_seeds: tuple[int, ...] | None
    share: float
    """The weight of each learned token's loss."""


class Sums(msgspec.Struct, frozen=True):
    """Over the learned tokens of a piece."""

    nll: float = 0.0
    correct: float = 0.0


def encode(row: Row) -> Encoded:
    """Turn a row into tensors."""
    learned = [place for place, label in enumerate(row.labels) if label != IGNORED]
    ids = torch.tensor(row.input_ids)
    places = torch.tensor(learned, dtype=torch.int64)
    return Encoded(ids, places - 1, ids[places])


class Sweep:
    """The examples of one optimizer step, or, without seeds, the held-out ones to be measured.

    Rows take as many of them as fit; what comes of it does not depend on how they were cut.
    """

    def __init__(self, examples: Sequence[Encoded], seeds: tuple[int, ...] | None) -> None:
        self.learning = seeds is not None
        self._examples = examples
        self._seeds = seeds
        self._learned = sum(len(one.targets) for one in examples)
        self._lengths = [one.length for one in examples]
        self._began = time.perf_counter()
        self._taken = 0
        self._sums = Sums()

    @property
    def lengths(self) -> list[int]:
        """Tokens of each example that is left."""
        return self._lengths[self._taken :]

    @property
    def done(self) -> bool:
        """Whether every example went through."""
        return self._taken == len(self._examples)

    @property
    def tokens(self) -> int:
        """All tokens of all examples."""
        return sum(self._lengths)

    @property
    def loss(self) -> float:
        """The mean over the learned tokens."""
        return self._sums.nll / self._learned

    @property
    def accuracy(self) -> float:
        """The share of learned tokens that were the likeliest."""
        return self._sums.correct / self._learned

    @property
    def seconds(self) -> float:
        """How long it has been going on."""
        return max(time.perf_counter() - self._began, 1e-9)

    def next(self, count: int) -> Piece:
        """Give the next examples."""
        span = slice(self._taken, self._taken + count)
        seeds = None if self._seeds is None else self._seeds[span]
        return Piece(self._examples[span], seeds, 1 / self._learned)

    def add(self, count: int, sums: Sums) -> None:
        """Note what came of them."""
        self._taken += count
        self._sums = Sums(self._sums.nll + sums.nll, self._sums.correct + sums.correct)

    def rewind(self) -> None:
        """Begin anew."""
        self._taken, self._sums = 0, Sums()
