"""Many streams as one: everything arrives, nothing stays open."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.serving.merging import closing, merged


class Source:
    """Yields its items; counts how many of its kind are open."""

    open = 0
    most = 0

    def __init__(self, items: list[int], fault: Exception | None = None) -> None:
        self.items, self.fault, self.closed = items, fault, False

    async def __aiter__(self) -> AsyncIterator[int]:
        Source.open += 1
        Source.most = max(Source.most, Source.open)
        try:
            for item in self.items:
                await asyncio.sleep(0)
                yield item
            if self.fault:
                raise self.fault
        finally:
            Source.open -= 1
            self.closed = True


@pytest.fixture(autouse=True)
def _nothing_open() -> None:
    Source.open = Source.most = 0


@given(st.lists(st.lists(st.integers())), st.integers(1, 5))
def test_every_item_arrives_in_its_sources_order(lists: list[list[int]], at_once: int) -> None:
    async def collect() -> list[tuple[int, int]]:
        sources = [aiter(Source(items)) for items in lists]
        tagged = [_tagged(place, source) for place, source in enumerate(sources)]
        return [item async for item in merged(tagged, at_once)]

    async def _tagged(place: int, source: AsyncIterator[int]) -> AsyncIterator[tuple[int, int]]:
        async for item in source:
            yield place, item

    Source.open = Source.most = 0
    got = asyncio.run(collect())
    assert [[item for place, item in got if place == wanted] for wanted in range(len(lists))] == [
        list(items) for items in lists
    ]
    assert Source.most <= at_once
    assert Source.open == 0


async def test_the_first_fault_ends_all_and_closes_all() -> None:
    sources = [Source([1, 2, 3] * 10), Source([], OSError("gone")), Source([4] * 10)]
    with pytest.raises(OSError, match="gone"):
        _ = [item async for item in merged([aiter(source) for source in sources], 2)]
    assert sources[1].closed
    assert Source.open == 0


async def test_leaving_early_closes_all() -> None:
    sources = [Source([1] * 10), Source([2] * 10)]
    async with closing(merged([aiter(source) for source in sources], 2)) as items:
        async for _ in items:
            break
    assert Source.open == 0


async def test_being_cancelled_while_waiting_closes_all() -> None:
    started, never = asyncio.Event(), asyncio.Event()
    closed = []

    async def silent(name: str) -> AsyncIterator[int]:
        try:
            started.set()
            await never.wait()
            yield 0
        finally:
            closed.append(name)

    async def consume() -> None:
        async with closing(merged([silent("a"), silent("b")], 2)) as items:
            async for _ in items:
                pass

    consuming = asyncio.create_task(consume())
    await started.wait()
    consuming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consuming
    assert sorted(closed) == ["a", "b"]
