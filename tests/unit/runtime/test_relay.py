"""Events cross from the trainer's thread to the event loop in order, and none is lost."""

import asyncio
from collections.abc import Sequence

import pytest

from service.runtime.relay import Relay
from service.training.trainer import CheckpointDue, StepDone, TrainingEvent


def step(number: int) -> StepDone:
    return StepDone(number, 100, 1.0, None, 1e-4, number, 1.0)


class Kept(list[TrainingEvent]):
    """Keeps events; waits at the gate before each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()
        self.batches = 0

    async def keep(self, events: Sequence[TrainingEvent]) -> None:
        self.entered.set()
        await self.gate.wait()
        self.batches += 1
        self.extend(events)


async def test_events_are_kept_in_order_and_many_at_once() -> None:
    kept = Kept()
    relay = Relay(kept.keep)
    running = asyncio.create_task(relay.run())

    def produce() -> None:
        for number in range(100):
            relay.report(step(number))

    await asyncio.to_thread(produce)
    kept.gate.set()
    relay.close()
    await running
    assert kept == [step(number) for number in range(100)]
    assert kept.batches < 100


async def test_a_checkpoint_waits_until_all_before_it_is_kept() -> None:
    kept = Kept()
    relay = Relay(kept.keep)
    running = asyncio.create_task(relay.run())
    seen_by_trainer: list[int] = []

    def produce() -> None:
        relay.report(step(1))
        relay.report(CheckpointDue(1))
        seen_by_trainer.append(len(kept))

    producing = asyncio.create_task(asyncio.to_thread(produce))
    await kept.entered.wait()
    assert not producing.done()
    kept.gate.set()
    await producing
    assert seen_by_trainer == [2]
    relay.close()
    await running


async def test_a_failure_to_keep_reaches_the_trainer_and_whoever_runs_it() -> None:
    async def refuse(_: Sequence[TrainingEvent]) -> None:
        raise OSError("disk full")

    relay = Relay(refuse)
    running = asyncio.create_task(relay.run())
    with pytest.raises(OSError, match="disk full"):
        await asyncio.to_thread(relay.report, CheckpointDue(1))
    with pytest.raises(OSError, match="disk full"):
        await asyncio.to_thread(relay.report, step(2))
    with pytest.raises(OSError, match="disk full"):
        await running


async def test_closing_with_nothing_reported_just_ends() -> None:
    relay = Relay(Kept().keep)
    relay.close()
    await asyncio.wait_for(relay.run(), 5)
