"""Which examples are held out. Pure, and the same for the same seed."""

import random
from collections.abc import Sequence
from typing import TypeVar

from service.training.spec import held_out

T = TypeVar("T")


def split(examples: Sequence[T], share: float, seed: int) -> tuple[list[T], list[T]]:
    """Divide into examples to train on and examples to measure with; both keep their order."""
    shuffled = list(range(len(examples)))
    random.Random(seed).shuffle(shuffled)  # noqa: S311  a choice, not a secret
    measured = set(shuffled[: held_out(len(examples), share)])
    train = [example for index, example in enumerate(examples) if index not in measured]
    return train, [examples[index] for index in sorted(measured)]
