"""Training's process begins once vLLM has taken its share of the card."""

import asyncio

import pytest

from service.runtime import process
from tests.fakes.engine import FakeEngine


class Starting(FakeEngine):
    """An engine that is there at the third look."""

    def __init__(self, looks: float) -> None:
        super().__init__()
        self.looks = looks
        self.closed = False

    async def status(self):  # type: ignore[no-untyped-def]
        self.looks -= 1
        self.available = self.looks < 0
        return await super().status()

    async def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LOOK_SECONDS", 0.001)


async def test_it_waits_until_vllm_answers() -> None:
    engine = Starting(3)
    await process.after_vllm(engine, asyncio.Event())
    assert engine.looks == -1
    assert engine.closed


async def test_it_waits_no_longer_than_that_could_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "VLLM_STARTS_SECONDS", 0.01)
    engine = Starting(float("inf"))
    await process.after_vllm(engine, asyncio.Event())
    assert engine.closed


async def test_it_ends_when_the_process_does() -> None:
    stop, engine = asyncio.Event(), Starting(float("inf"))
    waiting = asyncio.create_task(process.after_vllm(engine, stop))
    await asyncio.sleep(0)
    stop.set()
    await waiting
    assert engine.closed
