"""The rows of usage: counters that grow, whoever adds at the same time."""

import asyncio

import pytest
from sqlalchemy import select

from service.database import Database
from service.database.models import ErasureRow, TenantRow, UsageRow
from service.tenants.usage_counters import DAY_SECONDS, Amount, Counter
from service.tenants.usage_repository import UsageRepository

MONDAY = 20_000 * DAY_SECONDS
COUNTER = Counter("acme", "generated", "key_1", "support", "d" * 64, "ft:base:acme:support:dddd")


@pytest.fixture
async def tenants(database: Database) -> Database:
    async with database.write() as session:
        session.add_all(TenantRow(id=name, created_at=0) for name in ("acme", "globex"))
    return database


async def add(database: Database, day: int, amount: Amount, counter: Counter = COUNTER) -> None:
    async with database.write() as session:
        await UsageRepository(session).add(counter, day, amount)


async def test_many_who_add_at_once_add_up_in_one_row(tenants: Database) -> None:
    await asyncio.gather(*(add(tenants, MONDAY, Amount(1, 10, n)) for n in range(20)))
    async with tenants.read() as session:
        [row] = (await session.scalars(select(UsageRow))).all()
    assert (row.requests, row.input_tokens, row.output_tokens) == (20, 200, sum(range(20)))


async def test_what_was_spent_is_of_one_tenant_one_kind_and_the_days_asked_for(
    tenants: Database,
) -> None:
    await add(tenants, MONDAY - DAY_SECONDS, Amount(1, 1, 100))
    await add(tenants, MONDAY, Amount(1, 1, 20))
    await add(tenants, MONDAY + DAY_SECONDS, Amount(1, 1, 3))
    trained = Counter("acme", "trained", "", "support", "ftjob-1", "base")
    await add(tenants, MONDAY, Amount(output_tokens=7), trained)
    async with tenants.read() as session:
        usage = UsageRepository(session)
        assert await usage.spent("acme", "generated", MONDAY) == 23
        assert await usage.spent("acme", "trained", MONDAY) == 7
        assert await usage.spent("globex", "generated", 0) == 0
        rows = await usage.between("acme", MONDAY, MONDAY + DAY_SECONDS)
        assert [row.output_tokens for row in rows] == [20, 7]


async def test_a_tenant_that_goes_or_never_was_does_not_stay(tenants: Database) -> None:
    async with tenants.write() as session:
        session.add(ErasureRow(id="e", tenant_id="globex", status="running", created_at=0))
    async with tenants.write() as session:
        staying = await UsageRepository(session).staying({"acme", "globex", "initech"})
    assert staying == {"acme"}
