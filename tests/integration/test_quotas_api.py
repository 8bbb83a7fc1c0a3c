"""Quotas hold where things are created, between API processes too, and are seen and changed."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, update

from adapters_store import AdapterStore
from service.adapters.merges import merged_bytes
from service.adapters.repository import RevisionRepository
from service.base.description import BaseDescription
from service.database import Database
from service.database.models import FileRow, JobRow, RevisionRow, UsageRow
from service.errors import QuotaExceeded
from service.settings import Settings
from service.tenants.quotas import Quotas, Use, month_of
from service.wire import now
from tests.fakes.engine import FakeEngine
from tests.integration.generating import BASE, CHAT, HELLO, error_of, publish
from tests.integration.importing import IMPORT, an_adapter, files_form
from tests.integration.merging import Mill
from tests.integration.test_files_api import GOOD, upload
from tests.integration.test_jobs_api import JOBS, a_file

TENANT = "/v1/admin/tenants/acme"


def excess(answer: httpx.Response, quota: str) -> dict[str, Any]:
    assert answer.status_code == 429, answer.text
    assert answer.headers["x-should-retry"] == "false"
    error = error_of(answer)
    assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
    assert error["quota"] == quota
    for figure in ("limit", "used", "asked"):
        assert str(error[figure]) in error["message"]
    return error


async def job(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    body = {"model": BASE, "training_file": "file-train"} | fields
    return await client.post(JOBS, json=body)


async def test_files_and_their_bytes(
    acme: httpx.AsyncClient, limited: Callable[..., Any], settings: Settings
) -> None:
    await limited(files=2, stored_bytes=3 * len(GOOD))
    assert (await upload(acme)).status_code == 200
    second = await upload(acme)
    assert second.status_code == 200
    assert excess(await upload(acme), "files") | {"message": ""} == {
        "message": "",
        "type": "insufficient_quota",
        "param": None,
        "code": "insufficient_quota",
        "quota": "files",
        "limit": 2,
        "used": 2,
        "asked": 1,
    }
    await acme.delete(f"/v1/files/{second.json()['id']}")
    too_much = await upload(acme, GOOD * 2 + b"\n" + GOOD, purpose="user_data")
    excess(too_much, "stored_bytes")
    kept = [path for path in (settings.data_dir / "files").rglob("*") if path.is_file()]
    assert len(kept) == 1
    assert (await upload(acme)).status_code == 200


async def test_an_upload_takes_its_room_when_it_is_announced(
    acme: httpx.AsyncClient, limited: Callable[..., Any]
) -> None:
    await limited(files=1, stored_bytes=10)
    body = {"filename": "a", "purpose": "user_data", "bytes": 6, "mime_type": "text/plain"}
    announced = (await acme.post("/v1/uploads", json=body)).json()
    excess(await acme.post("/v1/uploads", json=body), "stored_bytes")
    excess(await upload(acme, b"x", purpose="user_data"), "files")
    part = await acme.post(f"/v1/uploads/{announced['id']}/parts", files={"data": b"123456"})
    done = await acme.post(
        f"/v1/uploads/{announced['id']}/complete", json={"part_ids": [part.json()["id"]]}
    )
    assert done.status_code == 200, done.text
    await limited(files=2, stored_bytes=12)
    second = await acme.post("/v1/uploads", json=body)
    assert second.status_code == 200
    await acme.post(f"/v1/uploads/{second.json()['id']}/cancel")
    assert (await upload(acme, b"123456", purpose="user_data")).status_code == 200


async def test_waiting_jobs_and_new_adapters(
    acme: httpx.AsyncClient, database: Database, limited: Callable[..., Any]
) -> None:
    await a_file(database, "file-train")
    await limited(queued_jobs=2, adapters=1)
    first = await job(acme, suffix="one")
    assert first.status_code == 200
    excess(await job(acme, suffix="two"), "adapters")
    assert (await job(acme, suffix="one")).status_code == 200
    excess(await job(acme, suffix="one"), "queued_jobs")
    async with database.write() as session:
        await session.execute(update(JobRow).values(status="running"))
    assert (await job(acme, suffix="one")).status_code == 200


async def test_no_more_jobs_run_than_may(
    acme: httpx.AsyncClient, database: Database, limited: Callable[..., Any]
) -> None:
    await a_file(database, "file-train")
    await limited(running_jobs=1)

    async def may_run() -> bool:
        async with database.write() as session:
            return await Quotas().may_run(session, "acme")

    assert (await job(acme)).status_code == 200
    assert await may_run()
    lapses = {"status": "running", "lease_expires_at": time.time() + 60}
    async with database.write() as session:
        await session.execute(update(JobRow).values(**lapses))
    assert not await may_run()
    # One whose runtime died is to be taken up again.
    async with database.write() as session:
        await session.execute(update(JobRow).values(lease_expires_at=1.0))
    assert await may_run()


async def test_a_months_trained_tokens_count_what_jobs_may_still_take(
    acme: httpx.AsyncClient, database: Database, limited: Callable[..., Any]
) -> None:
    await a_file(database, "file-train")  # of 100 tokens
    epochs = {"hyperparameters": {"n_epochs": 3}}
    async with database.write() as session:
        session.add(spent(month_of(now()), 350))
        session.add(spent(month_of(now()) - 86400, 5000))
    await limited(trained_tokens_per_month=949)
    assert (await job(acme, **epochs)).status_code == 200
    error = excess(await job(acme, **epochs), "trained_tokens_per_month")
    assert (error["used"], error["asked"]) == (650, 300)
    # What a job has trained is in the usage, and no more to come.
    async with database.write() as session:
        await session.execute(update(JobRow).values(accounted_tokens=200))
        session.add(spent(month_of(now()), 199, key_id="other"))
    assert (await job(acme, **epochs)).status_code == 200


def spent(day: int, tokens: int, key_id: str = "") -> UsageRow:
    return UsageRow(
        tenant_id="acme", day=day, kind="trained", key_id=key_id, model="m", output_tokens=tokens
    )


async def test_an_import_asks_for_its_bytes_and_its_name(
    acme: httpx.AsyncClient, database: Database, limited: Callable[..., Any], tmp_path: Path
) -> None:
    adapter = an_adapter(tmp_path / "adapter", rank=1)
    await limited(stored_bytes=1000)
    error = excess(await acme.post(IMPORT, **files_form(adapter)), "stored_bytes")
    assert error["asked"] > sum(map(len, adapter.values())) - 4096
    await limited(adapters=0)
    excess(await acme.post(IMPORT, **files_form(adapter)), "adapters")
    async with database.read() as session:
        assert await session.scalar(select(func.count()).select_from(RevisionRow)) == 0
    await limited(adapters=1, stored_bytes=error["asked"])
    # What is there already needs no more room.
    for status in (201, 200):
        assert (await acme.post(IMPORT, **files_form(adapter))).status_code == status
    excess(await acme.post(IMPORT, **files_form(adapter, adapter="other")), "stored_bytes")


async def test_a_merge_asks_for_a_whole_model(
    acme: httpx.AsyncClient,
    database: Database,
    store: AdapterStore,
    base: BaseDescription,
    limited: Callable[..., Any],
    tmp_path: Path,
) -> None:
    mill = Mill(acme, database, store, tmp_path)
    await mill.publish()
    size = merged_bytes(base)
    await limited(stored_bytes=2 * size - 1)
    first = await mill.ask()
    url = f"/v1/adapters/support/revisions/{mill.rev}/merge"
    assert excess(await acme.post(url, json={}), "stored_bytes")["used"] == size
    await acme.post(f"/v1/adapters/merges/{first['id']}/cancel")
    await mill.ask()


async def test_a_pin_is_a_resident_slot(
    admin: httpx.AsyncClient, database: Database, limited: Callable[..., Any]
) -> None:
    digests = [character * 64 for character in "ab"]
    async with database.write() as session:
        for digest in digests:
            await RevisionRepository(session).record(
                "acme", "support", digest, base_name=BASE, format="chat", job_id=None, size=0
            )
    await limited(resident_adapters=1)
    pins = [f"/v1/admin/residency/acme/support/{digest}" for digest in digests]
    for _ in range(2):
        assert (await admin.put(pins[0], json={"pinned": True})).status_code == 200
    excess(await admin.put(pins[1], json={"pinned": True}), "resident_adapters")
    await admin.put(pins[0], json={"pinned": False})
    assert (await admin.put(pins[1], json={"pinned": True})).status_code == 200


async def test_the_engine_is_told_how_many_places_a_tenants_adapters_may_have(
    acme: httpx.AsyncClient,
    database: Database,
    engine: FakeEngine,
    limited: Callable[..., Any],
) -> None:
    name = await publish(database, "acme", "desk")
    own, base = ({"model": model, "messages": HELLO} for model in (name, BASE))
    for limit, told in ((None, None), (2, 2)):
        await limited(resident_adapters=limit)
        engine.requests.clear()
        await acme.post(CHAT, json=own)
        (request,) = engine.requests
        assert (request.revision is None, request.places) == (False, told)
    await limited(resident_adapters=0)
    excess(await acme.post(CHAT, json=own), "resident_adapters")
    assert (await acme.post(CHAT, json=base)).status_code == 200
    assert engine.requests[-1].places is None


async def test_two_processes_cannot_both_be_the_last_that_fits(
    acme: httpx.AsyncClient, settings: Settings, limited: Callable[..., Any]
) -> None:
    await limited(files=3)
    databases = [Database(settings.sqlalchemy_url) for _ in range(2)]

    async def add(database: Database, number: int) -> bool:
        try:
            async with database.write() as session:
                await Quotas().admit(session, "acme", Use(files=1))
                session.add(
                    FileRow(
                        id=f"file-{number}",
                        tenant_id="acme",
                        filename="a",
                        purpose="user_data",
                        bytes=1,
                        sha256="0" * 64,
                        created_at=1,
                    )
                )
        except QuotaExceeded:
            return False
        return True

    adding: list[Coroutine[Any, Any, bool]] = [
        add(databases[number % 2], number) for number in range(8)
    ]
    assert sum(await asyncio.gather(*adding)) == 3
    for database in databases:
        await database.close()


async def test_limits_are_the_servers_until_a_tenant_has_its_own(
    admin: httpx.AsyncClient, acme: httpx.AsyncClient
) -> None:
    before = (await admin.get(f"{TENANT}/limits")).json()
    assert (before["tenant"], before["weight"]) == ("acme", 1.0)
    assert set(before["limits"].values()) == {None}
    assert set(before["used"].values()) == {0}
    changed = await admin.patch(TENANT, json={"weight": 2.5, "limits": {"files": 9}})
    assert changed.json()["limits"] == {"files": 9}
    await upload(acme)
    after = (await admin.get(f"{TENANT}/limits")).json()
    assert (after["weight"], after["limits"]["files"], after["used"]["files"]) == (2.5, 9, 1)
    assert after["used"]["stored_bytes"] == len(GOOD)
    await admin.patch(TENANT, json={"weight": 3})
    assert (await admin.get(TENANT)).json()["limits"] == {"files": 9}
    await admin.patch(TENANT, json={"limits": None})
    assert (await admin.get(f"{TENANT}/limits")).json()["limits"] == before["limits"]


async def test_a_tenant_sees_its_own_limits(
    admin: httpx.AsyncClient, acme: httpx.AsyncClient, limited: Callable[..., Any]
) -> None:
    await limited(files=4)
    key = await admin.post(f"{TENANT}/keys", json={"name": "boss", "scopes": ["admin"]})
    headers = {"authorization": f"Bearer {key.json()['key']}"}
    seen = await acme.get("/v1/limits", headers=headers)
    assert seen.json() == (await admin.get(f"{TENANT}/limits")).json()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"weight": 0}, "weight"),
        ({"weight": -1}, "weight"),
        ({"weight": 1001}, "weight"),
        ({"weight": "heavy"}, "weight"),
        ({"weight": None}, "weight"),
        ({"limits": {"files": -1}}, "limits.files"),
        ({"limits": {"files": 10**15 + 1}}, "limits.files"),
        ({"limits": {"requests_per_minute": 0}}, "limits.requests_per_minute"),
        ({"limits": {"flies": 1}}, "limits.flies"),
        ({"limits": 3}, "limits"),
        ({"name": "x"}, "name"),
    ],
)
async def test_bad_values_are_refused_by_name(
    admin: httpx.AsyncClient, acme: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    answer = await admin.patch(TENANT, json=body)
    assert answer.status_code == 400, answer.text
    assert error_of(answer)["param"] == param


async def test_an_unknown_tenants_limits_are_not_found(admin: httpx.AsyncClient) -> None:
    assert (await admin.patch("/v1/admin/tenants/nobody", json={})).status_code == 404
    assert (await admin.get("/v1/admin/tenants/nobody/limits")).status_code == 404
