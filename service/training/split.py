"""Which examples are held out. Pure, and the same for the same seed."""

import random
from array import array
from collections.abc import Sequence
from itertools import compress
from typing import TypeVar

from service.training.spec import held_out

T = TypeVar("T")


def split(examples: Sequence[T], share: float, seed: int) -> tuple[list[T], list[T]]:
    """Divide into examples to train on and examples to measure with; both keep their order."""
    marks = measured(len(examples), share, seed)
    train = compress(examples, (not mark for mark in marks))
    return list(train), list(compress(examples, marks))


def measured(count: int, share: float, seed: int) -> bytearray:
    """Mark with 1 which of `count` examples are held out, with 0 the others."""
    marks = bytearray(count)
    if not (wanted := held_out(count, share)):
        return marks
    # Not a list: a large file's would take a hundred bytes for each row.
    shuffled = array("I", range(count))
    random.Random(seed).shuffle(shuffled)  # noqa: S311  a choice, not a secret
    for place in shuffled[:wanted]:
        marks[place] = 1
    return marks
