"""What generations use is written once a second, once, whoever fails or hangs up meanwhile."""

import asyncio
from collections.abc import Sequence

import httpx
import pytest
from litestar import Litestar
from sqlalchemy import select, text

from service.database import Database
from service.database.models import TenantRow, UsageRow
from service.settings import Settings
from service.tenants.usage_counters import Amount, Counter
from service.tenants.usage_meter import UsageMeter
from tests.conftest import running
from tests.fakes.engine import FakeEngine
from tests.integration import dying
from tests.integration.generating import (
    BASE,
    CHAT,
    COMPLETIONS,
    HELLO,
    digest_of,
    over_the_wire,
    publish,
    served,
)

BASES = Counter("acme", "generated", "", "", "", BASE)


@pytest.fixture
def engine() -> FakeEngine:
    """Answers for any revision, stored or not, at length."""
    return FakeEngine(answer=lambda request, index: " ".join(["word"] * 500))


class Request:
    """Uses what it is told to."""

    def __init__(self, meter: UsageMeter, counter: Counter = BASES) -> None:
        self.amount = Amount(1, 10, 0)
        self.account = meter.open(counter, lambda: self.amount)

    def generate(self, tokens: int) -> None:
        self.amount += Amount(0, 0, tokens)


async def rows(database: Database) -> Sequence[UsageRow]:
    async with database.read() as session:
        # Not by their age: which are made together, the clock decides.
        order = (UsageRow.key_id, UsageRow.adapter)
        return (await session.scalars(select(UsageRow).order_by(*order))).all()


async def totals(database: Database) -> tuple[int, int, int]:
    found = await rows(database)
    return (
        sum(row.requests for row in found),
        sum(row.input_tokens for row in found),
        sum(row.output_tokens for row in found),
    )


@pytest.fixture
async def meter(database: Database) -> UsageMeter:
    async with database.write() as session:
        session.add(TenantRow(id="acme", created_at=0))
    return UsageMeter(database)


async def test_a_long_request_is_written_as_it_goes_and_in_sum_once(
    meter: UsageMeter, database: Database
) -> None:
    request = Request(meter)
    for _ in range(3):
        request.generate(5)
        await meter.flush()
    assert await totals(database) == (1, 10, 15)
    request.generate(1)
    request.account.close()
    await asyncio.gather(meter.flush(), meter.flush())
    assert await totals(database) == (1, 10, 16)


async def test_all_requests_of_a_second_are_one_row_for_each_counter(
    meter: UsageMeter, database: Database
) -> None:
    other = Counter("acme", "generated", "key_1", "", "", BASE)
    for request in [Request(meter), Request(meter), Request(meter, other)]:
        request.generate(2)
        request.account.close()
    await meter.flush()
    assert [(row.key_id, row.output_tokens) for row in await rows(database)] == [
        ("", 4),
        ("key_1", 2),
    ]


async def test_what_a_failed_flush_did_not_write_the_next_one_does(
    meter: UsageMeter, database: Database
) -> None:
    request = Request(meter)
    request.generate(5)
    request.account.close()
    async with database.write() as session:
        await session.execute(text("ALTER TABLE usage RENAME TO away"))
    with pytest.raises(Exception, match="usage"):
        await meter.flush()
    async with database.write() as session:
        await session.execute(text("ALTER TABLE away RENAME TO usage"))
    await meter.flush()
    await meter.flush()
    assert await totals(database) == (1, 10, 5)


async def test_the_end_writes_what_is_left(meter: UsageMeter, database: Database) -> None:
    async with meter.running():
        Request(meter).generate(3)
    assert await totals(database) == (1, 10, 3)


async def test_a_kill_loses_nothing_that_is_older_than_a_second(
    meter: UsageMeter, database: Database, settings: Settings
) -> None:
    used = Amount(1, 10, 5)
    async with asyncio.timeout(30):
        with dying.generating(settings, BASES, used):
            while await totals(database) == (0, 0, 0):  # noqa: ASYNC110  it is a row
                await asyncio.sleep(0.05)
    assert await totals(database) == (1, 10, 5)


async def test_a_tenant_that_is_gone_keeps_nobody_elses_usage_from_being_written(
    meter: UsageMeter, database: Database
) -> None:
    Request(meter, Counter("gone", "generated", "", "", "", BASE)).generate(1)
    Request(meter).generate(2)
    await meter.flush()
    assert await totals(database) == (1, 10, 2)


@pytest.fixture
async def used(app: Litestar, acme: httpx.AsyncClient, database: Database) -> UsageMeter:
    """The meter of the app, which flushes when the test says so and in the background."""
    meter: UsageMeter = await app.dependencies["meter"].dependency()
    return meter


async def test_answers_say_what_is_accounted_to_key_adapter_and_revision(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient, database: Database, used: UsageMeter
) -> None:
    model = await publish(database, "acme", "support")
    chat = {"model": model, "messages": HELLO, "n": 2}
    raw = {"model": BASE, "prompt": ["once", "twice upon"], "stream": False}
    asked = [await acme.post(CHAT, json=chat), await acme.post(COMPLETIONS, json=raw)]
    mine = await admin.post("/v1/tenants/acme/generate", json={"prompt": "hi"})
    refused = await acme.post(CHAT, json=chat | {"model": "unknown"})
    assert refused.status_code == 404
    await used.flush()
    [key] = (await admin.get("/v1/admin/tenants/acme/keys")).json()["data"]
    assert [answer.text for answer in (*asked, mine) if not answer.is_success] == []
    told = [answer.json()["usage"] for answer in (*asked, mine)]
    support = ("support", digest_of("acme", "support"), model)
    assert [
        (row.key_id, row.adapter, row.digest, row.model, row.requests)
        for row in await rows(database)
    ] == [("", *support, 1), (key["id"], "", "", BASE, 1), (key["id"], *support, 1)]
    assert await totals(database) == (
        3,
        sum(usage["prompt_tokens"] for usage in told),
        sum(usage["completion_tokens"] for usage in told),
    )


async def test_what_was_generated_for_a_client_that_hung_up_counts(
    app: Litestar,
    acme: httpx.AsyncClient,
    database: Database,
    engine: FakeEngine,
    used: UsageMeter,
) -> None:
    body = {"model": BASE, "messages": HELLO, "stream": True}
    async with served(app) as url, over_the_wire(acme, url) as http:
        async with http.stream("POST", CHAT, json=body) as answer:
            await anext(answer.aiter_lines())
            engine.pause()
            await used.flush()
            under_way = await totals(database)
        await engine.wait_until(running=0)
    await used.flush()
    generated = (await engine.status()).generated_tokens
    assert under_way[0] == 1
    assert await totals(database) == (1, under_way[1], generated)


async def test_the_last_second_is_written_when_the_server_ends(
    app: Litestar, database: Database
) -> None:
    meter: UsageMeter = await app.dependencies["meter"].dependency()
    async with running(app):
        async with database.write() as session:
            session.add(TenantRow(id="acme", created_at=0))
        Request(meter).generate(4)
    assert await totals(database) == (1, 10, 4)
