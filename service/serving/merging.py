"""Several streams as one, in the order in which things come."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any, Final, TypeVar

T = TypeVar("T")
END: Final[Any] = object()


@asynccontextmanager
async def closing(source: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Close the iterator on the way out, if it is one that can be closed."""
    try:
        yield source
    finally:
        if (close := getattr(source, "aclose", None)) is not None:
            await close()


async def merged(sources: Sequence[AsyncIterator[T]], at_once: int) -> AsyncIterator[T]:
    """Yield from all sources, of which at most `at_once` are drawn from at a time.

    The first failure ends all. Leaving early closes every source.
    """
    waiting = iter(sources)
    pending: dict[asyncio.Task[T], AsyncIterator[T]] = {}
    try:
        for source in islice(waiting, at_once):
            pending[asyncio.create_task(_next(source))] = source
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                following: AsyncIterator[T] | None = pending.pop(task)
                if (item := task.result()) is END:
                    following = next(waiting, None)
                else:
                    yield item
                if following is not None:
                    pending[asyncio.create_task(_next(following))] = following
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for source in sources:
            async with closing(source):
                pass


async def _next(source: AsyncIterator[T]) -> T:
    return await anext(source, END)
