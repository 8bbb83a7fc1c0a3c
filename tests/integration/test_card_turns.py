"""Two sides on one card, with real locks: neither works in the other's turn, and nobody starves."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from service.runtime import serving_turns, training_turns
from service.runtime.card import Card
from service.runtime.sleeping import Patience, Sleeping
from service.runtime.training_turns import InTurn
from service.serving.engine import GenerationRequest, Sampling
from service.serving.sleeping_engine import SleepingEngine
from tests.fakes.engine import FakeEngine

QUICK = Patience(idle=0.0, most_idle=0.0, turn=0.02)


class Memory:
    """The card's: it is vLLM's or training's, and a mistake if anybody works in the other's."""

    def __init__(self) -> None:
        self.awake = True
        self.trained = self.slept = 0
        self.faults: list[str] = []


class Vllm(FakeEngine):
    """An engine whose memory may be gone."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self._memory = memory

    async def generate(self, request: GenerationRequest) -> AsyncIterator[object]:  # type: ignore[override]
        async for piece in super().generate(request):
            if not self._memory.awake:
                self._memory.faults.append("it answered asleep")
            yield piece

    async def sleep(self) -> None:
        if (await self.status()).running:
            self._memory.faults.append("it fell asleep over an answer")
        self._memory.awake = False
        self._memory.slept += 1

    async def wake(self) -> None:
        self._memory.awake = True


class Rows:
    """A batch with so many rows to train."""

    most_tokens, row_tokens = 100, 10

    def __init__(self, memory: Memory, rows: int) -> None:
        self._memory, self.left = memory, rows

    @property
    def wanted(self) -> bool:
        return self.left > 0

    def turn(self) -> bool:
        if self._memory.awake:
            self._memory.faults.append("a row was trained while it was awake")
        self.left -= 1
        self._memory.trained += 1
        return True


class Both:
    """A card with both sides on it."""

    def __init__(self, memory: Memory, engine: SleepingEngine, rows: Rows) -> None:
        self.memory, self.engine, self.rows = memory, engine, rows

    async def ask(self, number: int) -> str:
        sampling = Sampling(max_tokens=8, temperature=0.0)
        request = GenerationRequest(
            id=f"gen-{number}", revision=None, prompt=[number], sampling=sampling, tenant="acme"
        )
        return "".join([piece.text async for piece in self.engine.generate(request)])


@asynccontextmanager
async def both(folder: Path, rows: int, share: float) -> AsyncIterator[Both]:
    """Keep turns for both until the end; a thread trains, as the conductor's does.

    vLLM ends first, while training may wait for its turn.
    """
    memory = Memory()
    vllm, woken, stop, gone = Vllm(memory), threading.Event(), asyncio.Event(), asyncio.Event()
    house = Both(memory, SleepingEngine(vllm, max_queue=8), Rows(memory, rows))
    training = InTurn(house.rows, woken.set)
    over = threading.Event()

    def train() -> None:
        while not over.is_set():
            woken.clear()
            if not (training.wanted and training.turn()):
                woken.wait()

    thread = threading.Thread(target=train)
    thread.start()
    sleeping = Sleeping(share, 0.0, QUICK)
    serving, learning = (
        asyncio.create_task(each)
        for each in (
            serving_turns.keep_turns(house.engine, vllm, Card(folder, "serving"), sleeping, gone),
            training_turns.keep_turns(training, Card(folder, "training"), lambda: None, stop),
        )
    )
    try:
        yield house
    finally:
        memory.awake = False
        gone.set()
        await serving
        stop.set()
        await learning
        over.set()
        woken.set()
        thread.join()
    assert memory.faults == []


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (serving_turns, training_turns):
        monkeypatch.setattr(module, "LOOK_SECONDS", 0.002)


async def until(memory: Memory, trained: int) -> None:
    while memory.trained < trained:  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.002)


async def test_jobs_are_trained_while_nobody_asks_and_it_wakes_when_they_are_done(
    tmp_path: Path,
) -> None:
    async with both(tmp_path, rows=20, share=0.2) as house:
        await until(house.memory, 20)
        assert await house.ask(1)
        assert (house.memory.awake, house.memory.slept) == (True, 1)


async def test_who_asks_is_answered_between_rows_without_end(tmp_path: Path) -> None:
    async with both(tmp_path, rows=10**9, share=0.2) as house:
        for number in range(3):
            await until(house.memory, house.memory.trained + 1)
            assert await house.ask(number)
        assert house.memory.slept == 3


async def test_jobs_are_trained_though_requests_have_no_end(tmp_path: Path) -> None:
    async with both(tmp_path, rows=30, share=0.5) as house:

        async def ask_without_end(tenant: int) -> None:
            while house.rows.wanted:
                await house.ask(tenant)

        await asyncio.gather(*(ask_without_end(tenant) for tenant in range(3)))
        assert house.memory.trained == 30


async def test_a_side_that_dies_leaves_the_card_to_the_other(tmp_path: Path) -> None:
    serving, training = Card(tmp_path, "serving"), Card(tmp_path, "training")
    async with training.wanted(), training.turn():
        assert await serving.wanted_by_other()
        taking = asyncio.create_task(anext(aiter(_turn(serving))))
        await asyncio.sleep(0)
        assert not taking.done()
    await taking
    assert not await serving.wanted_by_other()


async def _turn(card: Card) -> AsyncIterator[None]:
    async with card.turn():
        yield


async def test_training_that_waits_for_the_card_begins_nothing_once_it_is_to_stop(
    tmp_path: Path,
) -> None:
    memory, stop = Memory(), asyncio.Event()
    training = InTurn(Rows(memory, 10**9), lambda: None)
    begun: list[bool] = []
    training.begin = lambda: begun.append(True)  # type: ignore[method-assign]
    turns = training_turns.keep_turns(training, Card(tmp_path, "training"), lambda: None, stop)
    card = Card(tmp_path, "serving")
    async with card.turn():
        waiting = asyncio.create_task(turns)
        while not await card.wanted_by_other():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
        stop.set()
    await waiting
    assert begun == []
