"""In which order a task goes through its examples: a function of its own seed. Pure."""

import hashlib
import random
from functools import lru_cache

import msgspec

from service.training.spec import TrainingSpec


class Order(msgspec.Struct, frozen=True):
    """Optimizer steps count from 0 and each takes `batch_size` examples, an epoch's last the rest.

    Nothing is kept between calls: any step can be asked for, by whoever resumes.
    """

    examples: int
    batch_size: int
    n_epochs: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """How many steps go through all examples once."""
        return -(-self.examples // self.batch_size)

    @property
    def total_steps(self) -> int:
        """How many steps the task has."""
        return self.steps_per_epoch * self.n_epochs

    def batch(self, step: int) -> tuple[int, ...]:
        """Give the examples of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        start = place * self.batch_size
        return _epoch(self.examples, self.seed, epoch)[start : start + self.batch_size]

    def dropout_seeds(self, step: int) -> tuple[int, ...]:
        """Give each of those examples a number of 63 bits that no other visit of one shares."""
        return tuple(_number(self.seed, step, place) for place, _ in enumerate(self.batch(step)))


def order_of(spec: TrainingSpec, examples: int) -> Order:
    """Give a task's, with so many examples to train on."""
    return Order(examples, spec.batch_size, spec.n_epochs, spec.seed)


@lru_cache(maxsize=256)
def _epoch(examples: int, seed: int, epoch: int) -> tuple[int, ...]:
    shuffled = list(range(examples))
    random.Random(f"{seed} {epoch}").shuffle(shuffled)  # noqa: S311  an order, not a secret
    return tuple(shuffled)


def _number(seed: int, step: int, place: int) -> int:
    digest = hashlib.blake2b(f"{seed} {step} {place}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
