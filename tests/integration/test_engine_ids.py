"""The numbers by which engines know revisions: carried with requests, never another's."""

import httpx
import pytest
from sqlalchemy import delete, func, select

from adapters_store import RevisionRef
from service.adapters.engine_ids import EngineIds
from service.database import Database
from service.database.models import EngineIdRow
from tests.fakes.engine import FakeEngine
from tests.integration.aliasing import A, B, C, record
from tests.integration.generating import BASE, CHAT, HELLO


@pytest.fixture
def engine() -> FakeEngine:
    """Answers for any revision, stored or not."""
    return FakeEngine()


async def number_of(database: Database, digest: str, tenant: str = "acme") -> int:
    async with database.read() as session:
        found = await EngineIds(session).find(RevisionRef(tenant, "support", digest))
    assert found is not None
    return found


async def called(client: httpx.AsyncClient, engine: FakeEngine, model: str) -> int | None:
    """Ask a model; the number that the engine was given."""
    answer = await client.post(CHAT, json={"model": model, "messages": HELLO})
    assert answer.status_code == 200, answer.text
    return engine.requests[-1].engine_id


async def test_a_request_carries_the_number_that_its_revision_got_when_it_was_published(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient, database: Database, engine: FakeEngine
) -> None:
    own, other = await record(database, A), await record(database, B)
    theirs = await record(database, A, tenant="globex")
    numbers = [
        await number_of(database, A),
        await number_of(database, B),
        await number_of(database, A, "globex"),
    ]
    assert len(set(numbers)) == 3, "equal bytes of two tenants are two revisions"
    assert [
        await called(acme, engine, own),
        await called(acme, engine, other),
        await called(globex, engine, theirs),
    ] == numbers
    assert await called(acme, engine, BASE) is None


async def test_a_number_is_never_given_to_another_revision(
    acme: httpx.AsyncClient, database: Database
) -> None:
    model = await record(database, A)
    first = await number_of(database, A)
    assert (await acme.delete(f"/v1/models/{model}")).status_code == 200
    await record(database, B)
    second = await number_of(database, B)
    assert second > first
    await record(database, A)
    assert await number_of(database, A) == first, "the same content again"
    async with database.write() as session:
        # What erases a tenant removes its numbers too.
        await session.execute(delete(EngineIdRow))
    await record(database, C)
    assert await number_of(database, C) > second


async def test_recording_again_numbers_nothing_anew(
    acme: httpx.AsyncClient, database: Database
) -> None:
    for step in (None, 4, 8):
        await record(database, A, step=step)
    async with database.read() as session:
        assert await session.scalar(select(func.count()).select_from(EngineIdRow)) == 1


async def test_what_was_published_before_there_were_numbers_gets_one_at_its_first_use(
    acme: httpx.AsyncClient, database: Database, engine: FakeEngine
) -> None:
    model = await record(database, A)
    async with database.write() as session:
        await session.execute(delete(EngineIdRow))
    first = await called(acme, engine, model)
    assert first is not None
    assert await called(acme, engine, "support") == first == await number_of(database, A)
