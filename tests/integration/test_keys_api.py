"""Keys expire, are rotated and revoked, on every API process at once; tenants do it themselves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import pytest
from litestar import Litestar
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.database import Database
from service.database.models import ApiKeyRow
from service.errors import DatabaseUnavailable
from service.http.exchange import Exchange
from service.http.in_flight import InFlight
from service.settings import Settings
from service.tenants.key_watch import KeyWatch
from service.tenants.last_used import ACCURACY_SECONDS, LastUsed
from service.wire import now
from tests.fakes.engine import FakeEngine
from tests.integration.generating import BASE, CHAT, HELLO, error_of, over_the_wire, served

KEYS = "/v1/admin/tenants/acme/keys"
OWN = "/v1/keys"


async def make(client: httpx.AsyncClient, url: str = KEYS, **body: Any) -> dict[str, Any]:
    answer = await client.post(url, json={"name": "ci"} | body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def rotate(
    client: httpx.AsyncClient, key: dict[str, Any], url: str = KEYS, **body: Any
) -> dict[str, Any]:
    answer = await client.post(f"{url}/{key['id']}/rotate", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def status_of(client: httpx.AsyncClient, key: dict[str, Any]) -> int:
    headers = {"authorization": f"Bearer {key['key']}"}
    return (await client.get("/v1/models", headers=headers)).status_code


async def row_of(database: Database, key: dict[str, Any]) -> ApiKeyRow:
    async with database.read() as session:
        row = await session.scalar(select(ApiKeyRow).where(ApiKeyRow.id == key["id"]))
    assert row is not None
    return row


async def set_row(database: Database, key: dict[str, Any], **values: int) -> None:
    async with database.write() as session:
        await session.execute(update(ApiKeyRow).where(ApiKeyRow.id == key["id"]).values(**values))


async def test_a_key_is_good_until_it_expires(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient, database: Database
) -> None:
    key = await make(admin, expires_at=now() + 3600)
    assert key["expires_at"] > now()
    assert await status_of(acme, key) == 200
    await set_row(database, key, expires_at=now())
    assert await status_of(acme, key) == 401


@pytest.mark.parametrize("expires_at", [0, -1, 1_000_000_000, 10**18, "soon", 1.5])
async def test_a_bad_expiry_is_refused_by_name(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient, expires_at: object
) -> None:
    answer = await admin.post(KEYS, json={"name": "ci", "expires_at": expires_at})
    assert answer.status_code == 400, answer.text
    assert error_of(answer)["param"] == "expires_at"


async def test_a_rotated_key_overlaps_with_its_successor(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient, database: Database
) -> None:
    old = await make(admin, scopes=["jobs", "adapters"], expires_at=now() + 7200)
    new = await rotate(admin, old, overlap_seconds=60)
    same = ("name", "scopes", "expires_at", "tenant")
    assert [new[field] for field in same] == [old[field] for field in same]
    assert new["id"] != old["id"]
    assert new["key"] != old["key"]
    assert [await status_of(acme, key) for key in (old, new)] == [200, 200]
    row = await row_of(database, old)
    assert row.replaced_by == new["id"]
    assert row.expires_at is not None
    assert now() < row.expires_at <= now() + 60
    await set_row(database, old, expires_at=now())
    assert [await status_of(acme, key) for key in (old, new)] == [401, 200]


async def test_an_overlap_never_lengthens_a_keys_life(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient, database: Database
) -> None:
    old = await make(admin, expires_at=now() + 30)
    await rotate(admin, old, overlap_seconds=3600)
    assert (await row_of(database, old)).expires_at == old["expires_at"]


async def test_without_overlap_the_old_key_ends_at_once(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    old = await make(admin)
    new = await rotate(admin, old, overlap_seconds=0)
    assert [await status_of(acme, key) for key in (old, new)] == [401, 200]


async def test_a_key_is_rotated_once_and_while_it_lives(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    rotated, revoked = await make(admin), await make(admin)
    await rotate(admin, rotated)
    await admin.delete(f"{KEYS}/{revoked['id']}")
    for key in (rotated, revoked):
        again = await admin.post(f"{KEYS}/{key['id']}/rotate", json={})
        assert again.status_code == 409
        assert error_of(again)["param"] == "key_id"


@pytest.mark.parametrize("overlap", [-1, 30 * 86400 + 1, "1h"])
async def test_a_bad_overlap_is_refused_by_name(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient, overlap: object
) -> None:
    key = await make(admin)
    answer = await admin.post(f"{KEYS}/{key['id']}/rotate", json={"overlap_seconds": overlap})
    assert answer.status_code == 400
    assert error_of(answer)["param"] == "overlap_seconds"


async def test_revoking_on_one_process_holds_on_the_other_at_once(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient, replica: httpx.AsyncClient
) -> None:
    key = await make(admin)
    assert [await status_of(client, key) for client in (acme, replica)] == [200, 200]
    await admin.delete(f"{KEYS}/{key['id']}")
    assert [await status_of(client, key) for client in (acme, replica)] == [401, 401]


async def test_a_revoked_keys_stream_ends_and_says_why(
    app: Litestar,
    acme: httpx.AsyncClient,
    admin: httpx.AsyncClient,
    database: Database,
    engine: FakeEngine,
) -> None:
    watch = KeyWatch(database, app_in_flight(app))
    key = await make(admin)
    headers = {"authorization": f"Bearer {key['key']}"}
    body = {"model": BASE, "messages": HELLO, "stream": True}
    async with (
        served(app) as url,
        over_the_wire(acme, url) as client,
        client.stream("POST", CHAT, json=body, headers=headers) as stream,
        aclosing(stream.aiter_lines()) as lines,
    ):
        await anext(lines)
        engine.pause()
        await admin.delete(f"{KEYS}/{key['id']}")
        await watch.look()
        await watch.look()
        rest = [line async for line in lines]
    assert "invalid_api_key" in rest[-2] + rest[-1]
    assert "[DONE]" not in rest[-1]
    engine.resume()


async def test_others_streams_go_on(
    app: Litestar, acme: httpx.AsyncClient, database: Database, engine: FakeEngine
) -> None:
    watch = KeyWatch(database, app_in_flight(app))
    engine.pause()
    asking = asyncio.create_task(acme.post(CHAT, json={"model": BASE, "messages": HELLO}))
    await engine.wait_until(running=1)
    await watch.look()
    await watch.look()
    engine.resume()
    assert (await asking).status_code == 200


async def test_a_database_that_is_away_does_not_end_the_watch(settings: Settings) -> None:
    class Away(Database):
        @asynccontextmanager
        async def read(self) -> AsyncIterator[AsyncSession]:
            raise DatabaseUnavailable("The database does not answer; try again.")
            yield

    away, in_flight = Away(settings.sqlalchemy_url), InFlight()
    with in_flight.entered("acme", "key_1", exchange := Exchange("req_1")):
        await KeyWatch(away, in_flight).look()
    assert exchange.cut is None
    await away.close()


def app_in_flight(app: Litestar) -> Any:
    return app.middleware[0].kwargs["in_flight"]  # type: ignore[union-attr]


async def test_the_last_use_is_written_once_a_minute_by_whoever_saw_it(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient, database: Database
) -> None:
    key = await make(admin)
    row = await row_of(database, key)
    first, second = LastUsed(database), LastUsed(database)
    first.note(row, 1000)
    second.note(row, 1000 + ACCURACY_SECONDS - 1)
    await first.write()
    await second.write()
    assert (await row_of(database, key)).last_used_at == 1000
    first.note(await row_of(database, key), 1000 + ACCURACY_SECONDS)
    await first.write()
    listed = (await admin.get(KEYS)).json()["data"][-1]
    assert listed["last_used_at"] == 1000 + ACCURACY_SECONDS


async def test_a_use_that_cannot_be_written_is_written_later(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient, database: Database
) -> None:
    key = await make(admin)
    seen = LastUsed(Database("sqlite+aiosqlite:////nowhere/at/all.db"))
    seen.note(await row_of(database, key), 1000)
    await seen.write()
    await seen._database.close()
    seen._database = database
    await seen.write()
    assert (await row_of(database, key)).last_used_at == 1000


async def test_a_tenant_administers_its_own_keys_and_no_others(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    boss = await make(admin, scopes=["admin"])
    acme.headers["authorization"] = f"Bearer {boss['key']}"
    made = await make(acme, OWN, scopes=["jobs"])
    assert made["tenant"] == "acme"
    new = await rotate(acme, made, OWN, overlap_seconds=0)
    listed = (await acme.get(OWN)).json()["data"]
    assert [key["id"] for key in listed][-2:] == [made["id"], new["id"]]
    assert (await acme.delete(f"{OWN}/{new['id']}")).status_code == 200
    assert await status_of(globex, new) == 401
    theirs = await make(admin, KEYS.replace("acme", "globex"))
    for answer in (
        await acme.delete(f"{OWN}/{theirs['id']}"),
        await acme.post(f"{OWN}/{theirs['id']}/rotate", json={}),
    ):
        assert answer.status_code == 404
    assert await status_of(globex, theirs) == 200


async def test_without_the_scope_there_is_no_administration(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    for client in (acme, admin):
        for answer in (await client.get(OWN), await client.get("/v1/limits")):
            assert answer.status_code == 403
        assert (await client.post(OWN, json={"name": "x"})).status_code == 403
