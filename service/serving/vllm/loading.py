"""Brings revisions to vLLM, before anybody needs them there."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from adapters_store import AdapterStore, Revision, RevisionRef
from service.base.description import BaseDescription
from service.errors import EngineUnavailable
from service.serving.engine_names import Numbers, NumberTaken, engine_name
from service.serving.opening import found, not_loadable, rank_of
from service.serving.vllm.shelf import Shelf

T = TypeVar("T")

Allot = Callable[[RevisionRef], Awaitable[int]]
"""Gives a revision the number that is its own for ever."""


class Loader:
    """Verifies a revision, and has vLLM read the very files that were verified."""

    def __init__(
        self,
        store: AdapterStore,
        base: BaseDescription,
        shelf: Shelf,
        allot: Allot,
        *,
        max_rank: int,
    ) -> None:
        self._store = store
        self._base = base
        self._shelf = shelf
        self._allot = allot
        self._max_rank = max_rank
        self._numbers = Numbers()
        self._ranks: dict[str, int] = {}
        """Of what was found to fit the base, by its digest: its content is the same for ever."""
        self._loop = asyncio.get_running_loop()

    def learn(self, ref: RevisionRef, number: int) -> None:
        """Note a revision's number. Raises EngineUnavailable if it is another's."""
        try:
            self._numbers.learn(ref, number)
        except NumberTaken as fault:
            raise EngineUnavailable(str(fault)) from None

    def load(self, ref: RevisionRef) -> None:
        """Have it ready to run; blocks, in a thread that is not the event loop's.

        Raises ServiceError for what cannot be served, and what vLLM raises.
        """
        revision = found(ref, self._store, self._base)
        if (rank := self._rank(revision)) > self._max_rank:
            raise not_loadable(f"its rank is {rank}; {self._max_rank} is the most here")
        number = self._numbers.get(ref)
        if number is None:
            number = self._wait(self._allot(ref))
            self.learn(ref, number)
        self._wait(self._shelf.add(engine_name(ref), number, revision.path))

    def _rank(self, revision: Revision) -> int:
        digest = revision.ref.digest
        if digest not in self._ranks:
            self._ranks[digest] = rank_of(revision, self._base.linear_shapes)
        return self._ranks[digest]

    def _wait(self, answer: Awaitable[T]) -> T:
        return asyncio.run_coroutine_threadsafe(_awaited(answer), self._loop).result()


async def _awaited(answer: Awaitable[T]) -> T:
    return await answer
