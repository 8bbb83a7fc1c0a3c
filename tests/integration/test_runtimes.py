"""What runtimes tell of themselves: while they are there, and how quick they were."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from service.base.hardware import Hardware
from service.database import Database
from service.errors import DatabaseUnavailable
from service.jobs.runtimes import KEPT_SECONDS, Report, RuntimeRepository
from service.runtime.telling import keep_telling
from service.settings import Settings
from service.training.spec import Method
from tests.integration.test_plan_api import GPU
from tests.integration.test_training_jobs import Workshop, shop  # noqa: F401  a fixture


async def report(
    database: Database, owner: str, at: float, speeds: dict[Method, float], seconds: int = 60
) -> None:
    async with database.write() as session:
        told = Report(hardware=GPU, tokens_per_second=speeds)
        await RuntimeRepository(session, lambda: at).report(owner, "tiny", told, seconds)


async def alive(database: Database, at: float, base: str = "tiny") -> list[Hardware]:
    async with database.read() as session:
        told = await RuntimeRepository(session, lambda: at).told(base)
        return [report.hardware for report in told.alive]


async def speed(database: Database, method: Method = "supervised") -> float | None:
    async with database.read() as session:
        told = await RuntimeRepository(session).told("tiny")
        return told.tokens_per_second.get(method)


async def test_a_runtime_is_there_until_it_is_silent(database: Database) -> None:
    await report(database, "one", 1000, {})
    await report(database, "two", 1030, {})
    assert await alive(database, 1030) == [GPU, GPU]
    assert await alive(database, 1030, "another") == []
    assert await alive(database, 1060) == [GPU]
    await report(database, "two", 1061, {}, seconds=0)
    assert await alive(database, 1061) == []


async def test_the_last_word_on_speed_counts_also_of_who_has_gone(database: Database) -> None:
    assert await speed(database) is None
    await report(database, "one", 1000, {"supervised": 100.0, "dpo": 5.0})
    await report(database, "two", 2000, {"supervised": 90.0})
    await report(database, "three", 3000, {})
    assert await speed(database) == 90.0
    assert await speed(database, "dpo") == 5.0
    assert await speed(database, "reinforcement") is None
    await report(database, "four", 1061 + KEPT_SECONDS, {})
    assert await speed(database, "dpo") is None


async def test_a_runtime_tells_of_itself_from_its_start_to_its_end(
    shop: Workshop,  # noqa: F811  a fixture
    tmp_path: Path,
) -> None:
    await shop.submit()
    async with shop.working():
        await shop.ended()
    assert shop.parts.speeds.usual()["supervised"] > 0
    parts, stop = msgspec.structs.replace(shop.parts), asyncio.Event()

    async def told() -> list[Report]:
        async with shop.database.read() as session:
            return (await RuntimeRepository(session).told(parts.base.name)).alive

    telling = asyncio.create_task(keep_telling(parts, GPU, stop))
    async with asyncio.timeout(20):
        while not (found := await told()):  # noqa: ASYNC110  it is a row
            await asyncio.sleep(0.01)
    assert found == [Report(hardware=GPU, tokens_per_second=parts.speeds.usual())]
    stop.set()
    await telling
    assert await told() == []


async def test_a_database_that_is_away_does_not_end_a_runtime_that_tells(
    shop: Workshop,  # noqa: F811  a fixture
    settings: Settings,
) -> None:
    asked = asyncio.Event()

    class Away(Database):
        @asynccontextmanager
        async def write(self) -> AsyncIterator[AsyncSession]:
            asked.set()
            raise DatabaseUnavailable("The database does not answer; try again.")
            yield

    away, stop = Away(settings.sqlalchemy_url), asyncio.Event()
    parts = msgspec.structs.replace(shop.parts, database=away)
    telling = asyncio.create_task(keep_telling(parts, GPU, stop))
    async with asyncio.timeout(20):
        await asked.wait()
    stop.set()
    await telling
    await away.close()
