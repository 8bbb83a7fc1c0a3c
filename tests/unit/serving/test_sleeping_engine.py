"""Nothing reaches an engine that is shut; who waits is let in, and how many may is bounded."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from service.errors import EngineBusy, EngineUnavailable
from service.serving.engine import GenerationRequest, Sampling
from service.serving.sleeping_engine import SleepingEngine
from tests.fakes.engine import FakeEngine


@pytest.fixture
async def fake() -> AsyncIterator[FakeEngine]:
    engine = FakeEngine()
    yield engine
    await engine.close()


def a_request(number: int, tenant: str = "acme") -> GenerationRequest:
    sampling = Sampling(max_tokens=4, temperature=0.0)
    return GenerationRequest(
        id=f"gen-{number}", revision=None, prompt=[number], sampling=sampling, tenant=tenant
    )


async def asked(engine: SleepingEngine, number: int, tenant: str = "acme") -> str:
    return "".join([piece.text async for piece in engine.generate(a_request(number, tenant))])


async def test_who_comes_while_it_is_shut_waits_and_is_answered_once_it_is_open(
    fake: FakeEngine,
) -> None:
    engine = SleepingEngine(fake, max_queue=8)
    engine.shut()
    waiting = [asyncio.create_task(asked(engine, number)) for number in range(3)]
    scoring = asyncio.create_task(engine.score(None, [[1, 2]]))
    pinning = asyncio.create_task(engine.pin([]))
    for _ in range(3):
        await asyncio.sleep(0)
    assert fake.requests == []
    assert (engine.waiting, (await engine.status()).waiting) == (4, 4)
    assert await engine.running() == 0
    # Opened for a moment only: nobody who waits slips in later.
    engine.open()
    engine.shut()
    for _ in range(3):
        await asyncio.sleep(0)
    assert fake.requests == []
    engine.open()
    assert all(await asyncio.gather(*waiting))
    assert len((await scoring)[0]) == 1
    await pinning
    assert (engine.waiting, await engine.running()) == (0, 0)


async def test_an_answer_under_way_is_counted_and_goes_on(fake: FakeEngine) -> None:
    engine = SleepingEngine(fake, max_queue=8)
    pieces = engine.generate(a_request(1))
    await anext(pieces)
    engine.shut()
    assert await engine.running() == 1
    assert [piece async for piece in pieces]
    assert await engine.running() == 0


async def test_a_tenant_leaves_places_to_wait_in_for_others(fake: FakeEngine) -> None:
    engine = SleepingEngine(fake, max_queue=4)
    engine.shut()
    mine = [asyncio.create_task(asked(engine, number)) for number in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(EngineBusy):
        await asked(engine, 3)
    other = asyncio.create_task(asked(engine, 4, "globex"))
    await asyncio.sleep(0)
    assert engine.waiting == 3
    mine[0].cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert engine.waiting == 2
    engine.open()
    assert await mine[1]
    assert await other


async def test_when_it_closes_who_waits_is_told(fake: FakeEngine) -> None:
    engine = SleepingEngine(fake, max_queue=4)
    engine.shut()
    waiting = asyncio.create_task(asked(engine, 1))
    await asyncio.sleep(0)
    await engine.close()
    with pytest.raises(EngineUnavailable):
        await waiting
