"""Rate limits hold over all API processes, and answers say how a tenant stands."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from litestar import Litestar
from openai import RateLimitError
from sqlalchemy import func, select

from service.app import create_app
from service.base.description import BaseDescription
from service.database import Database
from service.database.models import PlaceRow, RateRow, TenantRow
from service.settings import Settings
from service.tenants.allowances import Limiter
from service.tenants.places import LAPSE_SECONDS, Places
from service.tenants.rates import Rate, Rates
from tests.conftest import running
from tests.fakes.engine import FakeEngine
from tests.integration.generating import BASE, CHAT, HELLO, error_of, events_of, sdk_of, served

MINUTE = Rate("requests", 60)
TENANT = "/v1/admin/tenants/acme"


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.at = 1_000_020.0 + 15  # a minute begins at 1_000_020

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def tenant(database: Database) -> str:
    async with database.write() as session:
        session.add(TenantRow(id="acme", created_at=1))
    return "acme"


async def chat(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post(CHAT, json={"model": BASE, "messages": HELLO} | fields)


async def given(database: Database) -> list[int]:
    async with database.read() as session:
        return [*await session.scalars(select(RateRow.used).order_by(RateRow.window))]


async def test_processes_together_get_the_limit_and_not_one_more(
    database: Database, tenant: str, clock: Clock
) -> None:
    replicas = [Rates(database, clock) for _ in range(3)]
    taking = [replicas[n % 3].take(tenant, MINUTE, 50, 1) for n in range(90)]
    granted = [window for window in await asyncio.gather(*taking) if window is not None]
    assert len(granted) <= 50
    # What lies with others comes back, and then all of it is used.
    for replica in replicas:
        await replica.settle(all_of_it=True)
    clock.at += 1
    rest = [await replicas[0].take(tenant, MINUTE, 50, 1) for _ in range(51 - len(granted))]
    assert [window is None for window in rest] == [False] * (50 - len(granted)) + [True]


async def test_few_requests_write(database: Database, tenant: str, clock: Clock) -> None:
    rates = Rates(database, clock)
    written = 0
    for _ in range(800):
        before = await given(database)
        assert await rates.take(tenant, MINUTE, 1000, 1)
        written += await given(database) != before
    assert written < 16


async def test_the_next_minute_is_a_new_one_and_old_rows_go(
    database: Database, tenant: str, clock: Clock
) -> None:
    rates = Rates(database, clock)
    for _ in range(4):
        assert await rates.take(tenant, MINUTE, 1, 1)
        assert await rates.take(tenant, MINUTE, 1, 1) is None
        clock.at += 60
    assert await given(database) == [1, 1]


async def test_what_a_process_does_not_use_goes_back_at_the_second_look(
    database: Database, tenant: str, clock: Clock
) -> None:
    rates = Rates(database, clock)
    await rates.take(tenant, MINUTE, 100, 1)
    assert await given(database) == [13]
    await rates.settle()
    assert await given(database) == [13]
    await rates.settle()
    assert await given(database) == [1]


async def test_places_are_few_at_once_and_free_for_everybody_when_left(
    database: Database, tenant: str, clock: Clock
) -> None:
    one, two = Places(database, "one", clock), Places(database, "two", clock)
    assert [await places.enter(tenant, 2) for places in (one, two, one, two)] == [True] * 2 + [
        False
    ] * 2
    await one.leave(tenant)
    assert await two.enter(tenant, 2)
    assert not await one.enter(tenant, 2)


async def test_many_places_are_not_written_for_each_generation(
    database: Database, tenant: str, clock: Clock
) -> None:
    places = Places(database, "one", clock)
    assert await places.enter(tenant, 80)
    async with database.read() as session:
        assert await session.scalar(select(PlaceRow.held)) == 10
    for _ in range(5):
        await places.leave(tenant)
        assert await places.enter(tenant, 80)
    await places.leave(tenant)
    for _ in range(2):
        await places.settle()
    async with database.read() as session:
        assert await session.scalar(select(func.count()).select_from(PlaceRow)) == 0


async def test_a_dead_processs_places_lapse_and_a_living_ones_do_not(
    database: Database, tenant: str, clock: Clock
) -> None:
    dead, living, third = (Places(database, name, clock) for name in ("dead", "living", "third"))
    assert await dead.enter(tenant, 2)
    assert await living.enter(tenant, 2)
    clock.at += LAPSE_SECONDS - 1
    await living.settle()
    assert not await third.enter(tenant, 2)
    clock.at += 2
    assert await third.enter(tenant, 2)
    assert not await third.enter(tenant, 2)


async def test_requests_are_counted_on_both_processes(
    acme: httpx.AsyncClient,
    globex: httpx.AsyncClient,
    replica: httpx.AsyncClient,
    limited: Callable[..., Any],
    clock: Clock,
) -> None:
    assert "x-ratelimit-limit-requests" not in (await acme.get("/v1/models")).headers
    await limited(requests_per_minute=4)
    answers = [await client.get("/v1/models") for client in (acme, replica) * 3]
    assert [answer.status_code for answer in answers] == [200] * 4 + [429] * 2
    told = ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests"]
    assert [answers[0].headers[name] for name in told] == ["4", "3"]
    refused = answers[-1]
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-reset-requests"] == "45s"
    assert refused.headers["retry-after"] == "45"
    assert "x-should-retry" not in refused.headers
    assert error_of(refused)["code"] == "rate_limit_exceeded"
    assert (await globex.get("/v1/models")).status_code == 200
    clock.at += 45
    assert (await replica.get("/v1/models")).status_code == 200


async def test_tokens_are_taken_before_and_settled_after(
    acme: httpx.AsyncClient, limited: Callable[..., Any], clock: Clock
) -> None:
    await limited(tokens_per_minute=1000)
    first = await chat(acme, max_tokens=500)
    used = first.json()["usage"]["total_tokens"]
    asked = first.json()["usage"]["prompt_tokens"] + 500
    assert first.headers["x-ratelimit-limit-tokens"] == "1000"
    assert first.headers["x-ratelimit-remaining-tokens"] == str(1000 - asked)
    second = await chat(acme, max_tokens=500, stream=True)
    events_of(second)
    assert second.headers["x-ratelimit-remaining-tokens"] == str(1000 - used - asked)
    refused = await chat(acme, max_tokens=980)
    assert refused.status_code == 429
    assert refused.headers["x-ratelimit-remaining-tokens"] == str(1000 - 2 * used)
    assert refused.headers["retry-after"] == "45"
    never = await chat(acme, max_tokens=1500)
    assert never.status_code == 429
    assert never.headers["x-should-retry"] == "false"


async def test_a_days_generated_tokens_are_a_quota(
    acme: httpx.AsyncClient, replica: httpx.AsyncClient, limited: Callable[..., Any]
) -> None:
    await limited(generated_tokens_per_day=20)
    for client in (acme, replica):
        assert (await chat(client, max_tokens=9)).status_code == 200
    refused = await chat(acme, max_tokens=9)
    assert refused.status_code == 429
    assert refused.headers["x-should-retry"] == "false"
    error = error_of(refused)
    assert (error["code"], error["quota"]) == ("insufficient_quota", "generated_tokens_per_day")
    assert (error["limit"], error["used"], error["asked"]) == (20, 18, 9)
    assert (await chat(acme, max_tokens=2)).status_code == 200


async def test_generations_at_once_are_few_on_both_processes(
    acme: httpx.AsyncClient,
    replica: httpx.AsyncClient,
    admin: httpx.AsyncClient,
    limited: Callable[..., Any],
    engine: FakeEngine,
) -> None:
    await limited(concurrent_generations=1)
    engine.pause()
    running_one = asyncio.create_task(chat(acme))
    await engine.wait_until(running=1)
    for client in (acme, replica):
        refused = await chat(client)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert "concurrent_generations" in error_of(refused)["message"]
    engine.resume()
    assert (await running_one).status_code == 200
    # Whoever reads the end finds the place free, wherever the next request goes.
    for client in (replica, acme, replica):
        assert (await chat(client)).status_code == 200
    events_of(await chat(acme, stream=True))
    assert (await chat(replica)).status_code == 200
    # The operator's own requests are not the tenant's.
    engine.pause()
    running_one = asyncio.create_task(chat(acme))
    await engine.wait_until(running=1)
    asking = admin.post("/v1/tenants/acme/generate", json={"adapter": BASE, "prompt": "hi"})
    operators = asyncio.create_task(asking)
    engine.resume()
    assert (await running_one).status_code == 200
    assert (await operators).status_code != 429


async def test_a_refused_request_keeps_nothing(
    acme: httpx.AsyncClient, limited: Callable[..., Any]
) -> None:
    await limited(concurrent_generations=1, tokens_per_minute=100)
    assert (await chat(acme, max_tokens=200)).status_code == 429
    assert (await chat(acme, max_tokens=0)).status_code == 400
    assert (await chat(acme, max_tokens=5)).status_code == 200


async def test_the_sdk_sees_its_rate_limit_error(
    app: Litestar, acme: httpx.AsyncClient, limited: Callable[..., Any]
) -> None:
    await limited(requests_per_minute=1)
    async with served(app) as url, sdk_of(acme, url) as sdk:
        await sdk.models.list()
        with pytest.raises(RateLimitError) as caught:
            await sdk.chat.completions.create(
                model=BASE, messages=[{"role": "user", "content": "hi"}]
            )
    assert caught.value.code == "rate_limit_exceeded"
    assert int(caught.value.response.headers["retry-after"]) == 45


async def test_an_app_gives_back_what_it_holds_when_it_ends(
    settings: Settings, base: BaseDescription, database: Database, tenant: str, clock: Clock
) -> None:
    limiter = Limiter(database, clock)
    app = create_app(settings, base=base, engine=FakeEngine(), database=database, limiter=limiter)
    async with running(app):
        await limiter.rates.take(tenant, MINUTE, 100, 1)
        assert await given(database) == [13]
    assert await given(database) == [1]
