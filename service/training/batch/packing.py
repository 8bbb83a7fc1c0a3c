"""Which tasks contribute how many examples to the next row of tokens. Pure.

Weighted deficit round-robin: the next examples are always of the tenant who was given the fewest
tokens for its weight so far, and within a tenant of the task that was; so many at a time that they
make QUANTUM tokens. Nobody saves up: who has nothing more to give to a row starts over with those
who have.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

QUANTUM = 512
"""Each task in a row costs matrix products of its own, that few tokens hardly fill."""


class Waiting(msgspec.Struct, frozen=True):
    """What a task could contribute: the lengths of its next examples, in its own order."""

    task: str
    tenant: str
    lengths: Sequence[int]
    tenant_weight: float = 1.0
    """Against other tenants'."""
    weight: float = 1.0
    """Against the tenant's other tasks'."""


class Packer:
    """Fills one row after the other; remembers only who was given how much."""

    def __init__(self, quantum: int = QUANTUM) -> None:
        """Give at least `quantum` tokens at a time, if there are as many and they fit."""
        self._quantum = quantum
        self._tenants = _Given()
        self._tasks = _Given()

    def fill(self, waiting: Iterable[Waiting], budget: int) -> dict[str, int]:
        """Tell how many of their next examples tasks contribute; those with none are left out.

        The row stays within `budget` tokens, unless a single example alone is longer.
        """
        row = _Row([one for one in waiting if one.lengths], budget)
        self._tenants.keep({one.tenant for one in row.waiting})
        self._tasks.keep({one.task for one in row.waiting})
        while fitting := row.fitting():
            tenant = self._tenants.least({one.tenant for one in fitting})
            task = self._tasks.least({one.task for one in fitting if one.tenant == tenant})
            tokens = row.add(task)
            while tokens < self._quantum and row.fits(task):
                tokens += row.add(task)
            self._tenants.give(tenant, tokens / row.tasks[task].tenant_weight)
            self._tasks.give(task, tokens / row.tasks[task].weight)
        left = row.left()
        self._tenants.level({one.tenant for one in left})
        self._tasks.level({one.task for one in left})
        return dict(row.counts)


class _Row:
    def __init__(self, waiting: Sequence[Waiting], budget: int) -> None:
        self.waiting = waiting
        self.tasks = {one.task: one for one in waiting}
        self.counts: Counter[str] = Counter()
        self._budget = budget
        self._tokens = 0

    def left(self) -> list[Waiting]:
        return [one for one in self.waiting if self._next(one.task) is not None]

    def fitting(self) -> list[Waiting]:
        return [one for one in self.waiting if self.fits(one.task)]

    def fits(self, task: str) -> bool:
        length = self._next(task)
        return length is not None and (not self._tokens or self._tokens + length <= self._budget)

    def add(self, task: str) -> int:
        length = self.tasks[task].lengths[self.counts[task]]
        self.counts[task] += 1
        self._tokens += length
        return length

    def _next(self, task: str) -> int | None:
        lengths, taken = self.tasks[task].lengths, self.counts[task]
        return lengths[taken] if taken < len(lengths) else None


class _Given:
    """Tokens given to each name, by its weight; only the differences mean anything."""

    def __init__(self) -> None:
        self._tokens: dict[str, float] = {}

    def keep(self, names: set[str]) -> None:
        """Forget the others, and start newcomers where the least served is."""
        least = min((self._tokens[name] for name in names & self._tokens.keys()), default=0)
        self._tokens = {name: self._tokens.get(name, least) - least for name in sorted(names)}

    def least(self, names: set[str]) -> str:
        return min(names, key=lambda name: (self._tokens[name], name))

    def give(self, name: str, tokens: float) -> None:
        self._tokens[name] += tokens

    def level(self, wanting: set[str]) -> None:
        """Take from those who wanted no more the right to more later."""
        given = [self._tokens[name] for name in wanting]
        floor = min(given) if given else max(self._tokens.values(), default=0)
        for name in self._tokens.keys() - wanting:
            self._tokens[name] = max(self._tokens[name], floor)
