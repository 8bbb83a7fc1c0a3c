"""The database goes away and comes back while jobs train: status lands, and nothing is doubled."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from service.database import Database
from service.settings import Settings
from tests.integration.test_training_jobs import Workshop, shop

__all__ = ["shop"]


def gone() -> OperationalError:
    return OperationalError("BEGIN", None, OSError("the connection was closed"))


class Flaky(Database):
    """A real one whose connection is lost on demand: before a transaction, or after its commit."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.away = False
        self.answers_lost = 0
        self.missed = asyncio.Event()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        if self.away:
            self.missed.set()
            raise gone()
        async with super().write() as session:
            yield session
        if self.answers_lost:
            self.answers_lost -= 1
            raise gone()


@pytest.fixture
async def flaky(shop: Workshop, settings: Settings) -> AsyncIterator[Flaky]:
    database = Flaky(settings.sqlalchemy_url)
    shop.parts = msgspec.structs.replace(shop.parts, database=database)
    yield database
    await database.close()


async def assert_told_once(shop: Workshop) -> None:
    assert await shop.metrics("train_loss") == list(range(1, 9))
    assert await shop.metrics("valid_loss") == [0, 4, 8]
    messages = await shop.messages()
    assert len(set(messages)) == len(messages)
    assert [row.step_number for row in await shop.checkpoints()] == [4, 8]


@pytest.mark.parametrize("step", [3, 8])
async def test_what_cannot_be_written_is_written_when_the_database_is_back(
    shop: Workshop, flaky: Flaky, step: int
) -> None:
    await shop.submit()
    shop.gate.closed_at = step
    async with shop.working():
        await shop.at_step(step)
        flaky.away = True
        shop.gate.opened.set()
        await asyncio.wait_for(flaky.missed.wait(), 20)
        flaky.away = False
        job = await shop.ended()
    assert (job.status, job.lease_token) == ("succeeded", 1), "the lease stood"
    await assert_told_once(shop)


async def test_a_database_that_is_away_longer_than_the_lease_costs_no_more_than_a_resume(
    shop: Workshop, flaky: Flaky
) -> None:
    await shop.submit()
    shop.gate.closed_at = 8
    async with shop.working(lease_seconds=1.5) as runtime:
        await shop.at_step(8)
        flaky.away = True
        shop.gate.opened.set()
        async with asyncio.timeout(20):
            # And for longer than a heartbeat: who holds it has seen by then that it is lost.
            while not await shop.lapsed(by=1.5):  # noqa: ASYNC110  it is a row
                await asyncio.sleep(0.05)
        flaky.away = False
        job = await shop.ended()
        assert not runtime.done()
    assert job.status == "succeeded"
    assert job.lease_token > 1
    await assert_told_once(shop)


async def test_what_was_written_though_the_answer_was_lost_is_not_written_again(
    shop: Workshop, flaky: Flaky
) -> None:
    await shop.submit()
    shop.gate.closed_at = 3
    async with shop.working():
        await shop.at_step(3)
        flaky.answers_lost = 2
        shop.gate.opened.set()
        job = await shop.ended()
    assert job.status == "succeeded"
    await assert_told_once(shop)
