"""Tenants side by side over HTTP: what of each reaches the engine, and who is turned away."""

import asyncio
from typing import Any

import httpx
import pytest
from litestar import Litestar
from msgspec.structs import replace

from service.app import create_app
from service.base.description import BaseDescription
from service.database import Database
from service.settings import Settings
from tests.conftest import ADMIN_KEY, running
from tests.fakes.engine import FakeEngine
from tests.integration.generating import (
    BASE,
    CHAT,
    COMPLETIONS,
    HELLO,
    error_of,
    over_the_wire,
    publish,
    served,
)

ASKED: dict[str, Any] = {"model": BASE, "prompt": "once upon"}


@pytest.fixture
def engine() -> FakeEngine:
    """One sequence at once, and three requests that wait."""
    return FakeEngine(max_batch=1, max_queue=3)


async def test_the_tenant_and_its_weight_reach_the_engine_from_the_next_request_on(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient, database: Database, engine: FakeEngine
) -> None:
    model = await publish(database, "acme", "tickets")
    generate = "/v1/tenants/acme/generate"
    for weight in (2.5, 3.0):
        changed = await admin.patch("/v1/admin/tenants/acme", json={"weight": weight})
        assert changed.status_code == 200, changed.text
        for who, path, asked in (
            (acme, COMPLETIONS, {"model": model, "prompt": "once upon"}),
            (acme, CHAT, {"model": model, "messages": HELLO}),
            (acme, generate, {"prompt": "once upon"}),
            (admin, generate, {"prompt": "once upon"}),
        ):
            answer = await who.post(path, json=asked)
            assert answer.status_code == 200, answer.text
            assert (engine.requests[-1].tenant, engine.requests[-1].weight) == ("acme", weight)


async def test_beyond_so_many_requests_the_server_turns_away_all_but_probes(
    settings: Settings, base: BaseDescription, database: Database, engine: FakeEngine
) -> None:
    app = create_app(replace(settings, max_requests=1), base=base, engine=engine, database=database)
    engine.pause()
    async with (
        running(app),
        served(app) as url,
        httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {ADMIN_KEY}"}) as admin,
    ):
        (await admin.post("/v1/admin/tenants", json={"id": "acme"})).raise_for_status()
        made = await admin.post("/v1/admin/tenants/acme/keys", json={"name": "tests"})
        headers = {"authorization": f"Bearer {made.json()['key']}"}
        under_way = asyncio.create_task(admin.post(COMPLETIONS, json=ASKED, headers=headers))
        await engine.wait_until(running=1)
        refused = await admin.get("/v1/admin/tenants")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert error_of(refused)["code"] == "overloaded"
        assert refused.headers["x-request-id"]
        assert (await admin.get("/health/live")).status_code == 200
        assert 'status="503"' in (await admin.get("/metrics")).text
        engine.resume()
        assert (await under_way).status_code == 200
        assert (await admin.get("/v1/admin/tenants")).status_code == 200


async def test_who_fills_the_queue_is_turned_away_and_another_tenant_is_not(
    app: Litestar,
    admin: httpx.AsyncClient,
    acme: httpx.AsyncClient,
    globex: httpx.AsyncClient,
    engine: FakeEngine,
) -> None:
    engine.pause()
    async with (
        served(app) as url,
        over_the_wire(acme, url) as heavy,
        over_the_wire(globex, url) as light,
    ):
        under_way = [asyncio.create_task(heavy.post(COMPLETIONS, json=ASKED)) for _ in range(3)]
        await engine.wait_until(running=1, waiting=2)
        refused = await heavy.post(COMPLETIONS, json=ASKED | {"stream": True})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert error_of(refused)["code"] == "engine_busy"
        under_way.append(asyncio.create_task(light.post(COMPLETIONS, json=ASKED)))
        await engine.wait_until(running=1, waiting=3)
        engine.resume()
        assert {(await one).status_code for one in under_way} == {200}
    told = (await admin.get("/metrics")).text
    assert 'lorehouse_generations_refused_total{tenant="acme"} 1.0' in told
    assert 'lorehouse_generation_queue_seconds_count{tenant="acme"} 3.0' in told
    assert 'lorehouse_generation_queue_seconds_count{tenant="globex"} 1.0' in told
