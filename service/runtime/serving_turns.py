"""Puts vLLM to sleep and wakes it, in its turn on the card."""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Protocol

from service.runtime.card import Card
from service.runtime.sleeping import Sleeping, Wants
from service.serving.sleeping_engine import SleepingEngine
from service.telemetry import logger
from service.waiting import pass_time

LOOK_SECONDS = 0.1

_log = logger(__name__)


class Sleeper(Protocol):
    """What holds the card's memory, and can put it aside. Both raise what ends it."""

    async def sleep(self) -> None:
        """Put weights and adapters into main memory, forget keys and values; nothing runs."""
        ...

    async def wake(self) -> None:
        """Take them back."""
        ...


async def keep_turns(
    engine: SleepingEngine,
    sleeper: Sleeper,
    card: Card,
    sleeping: Sleeping,
    gone: asyncio.Event,
) -> None:
    """Go by `sleeping`, on the monotonic clock, until vLLM is gone. Raises what the sleeper does.

    The card is kept while vLLM is awake: after the last answer its memory is still in use.
    """
    async with AsyncExitStack() as held:
        await held.enter_async_context(card.turn())
        while not gone.is_set():
            running, jobs = await engine.running(), await card.wanted_by_other()
            wants = Wants(engine.waiting, running, jobs)
            before, state = sleeping.state, sleeping.next(time.monotonic(), wants)
            if state == "awake":
                if before == "asleep":
                    await _wake(sleeper, card, held)
                engine.open()
            else:
                engine.shut()
            if state == "asleep" and before != "asleep":
                await _fall_asleep(sleeper, held)
            await pass_time(gone, LOOK_SECONDS)


async def _fall_asleep(sleeper: Sleeper, held: AsyncExitStack) -> None:
    began = time.monotonic()
    await sleeper.sleep()
    await held.aclose()
    _log.info("engine.asleep", seconds=round(time.monotonic() - began, 3))


async def _wake(sleeper: Sleeper, card: Card, held: AsyncExitStack) -> None:
    began = time.monotonic()
    async with card.wanted():
        await held.enter_async_context(card.turn())
    await sleeper.wake()
    _log.info("engine.awake", seconds=round(time.monotonic() - began, 3))
