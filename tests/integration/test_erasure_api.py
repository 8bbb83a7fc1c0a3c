"""Erasing a tenant: at once for it, wholly in the end, and nothing of anybody else's."""

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from advanced_alchemy.base import DefaultBase
from litestar import Litestar
from sqlalchemy import event, func, select

from adapters_store import AdapterStore
from service.database import Database
from service.database.models import (
    DeliveryRow,
    IdempotencyRow,
    JobCheckpointRow,
    JobRow,
    MergeRow,
    PlaceRow,
    RateRow,
    TenantRow,
    UsageRow,
    WebhookRow,
)
from service.erasure.repository import TABLES
from service.jobs.repository import JobRepository, LeaseLost
from service.settings import Settings
from service.tenants.quotas import Quotas
from tests.builders import a_peft_folder, an_origin
from tests.fakes.engine import FakeEngine
from tests.integration.aliasing import NEW, naming, put, record
from tests.integration.generating import BASE, CHAT, HELLO, error_of

SECRET = "zq7-the-merger-is-on-friday"
TENANTS, ERASURES = "/v1/admin/tenants", "/v1/admin/erasures"


@pytest.fixture(autouse=True)
def ordinary_sqlite(database: Database, backend: str) -> None:
    """Some builds of SQLite overwrite what is deleted by themselves; most do not."""
    if backend != "sqlite":
        return

    @event.listens_for(database.engine.sync_engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA secure_delete = OFF")


@pytest.fixture
def parts(
    database: Database, store: AdapterStore, settings: Settings, tmp_path: Path
) -> dict[str, Any]:
    """What `furnish` puts things into."""
    return {
        "database": database,
        "store": store,
        "folder": tmp_path,
        "data_dir": settings.data_dir,
    }


async def furnish(
    client: httpx.AsyncClient,
    tenant: str,
    secret: str,
    *,
    database: Database,
    store: AdapterStore,
    folder: Path,
    data_dir: Path,
) -> dict[str, Any]:
    """Give a tenant something of every kind, with a secret in all that it may write freely."""
    rows = [{"prompt": f"What is {secret}?", "completion": secret}] * 12
    content = "\n".join(map(json.dumps, rows)).encode()
    form = {"file": (f"{secret}.jsonl", content)}
    file = await client.post("/v1/files", data={"purpose": "fine-tune"}, files=form)
    assert file.status_code == 200, file.text
    announced = {
        "filename": f"{secret}.jsonl",
        "purpose": "fine-tune",
        "bytes": 100,
        "mime_type": "text/jsonl",
    }
    upload = (await client.post("/v1/uploads", json=announced)).json()
    part = await client.post(f"/v1/uploads/{upload['id']}/parts", files={"data": secret.encode()})
    assert part.status_code == 200, part.text
    job = await client.post(
        "/v1/fine_tuning/jobs",
        json={
            "model": BASE,
            "training_file": file.json()["id"],
            "suffix": "support",
            "metadata": {"note": secret},
        },
    )
    assert job.status_code == 200, job.text
    staged = a_peft_folder(folder / tenant, seed=7)
    origin = an_origin(job_id=job.json()["id"], spec={"note": secret})
    ref = store.publish(tenant, "support", staged, origin).ref
    await record(database, ref.digest, tenant=tenant, job_id=job.json()["id"])
    await put(client, "production", naming(ref.digest, reason=secret), NEW)
    workdir = data_dir / "jobs" / job.json()["id"] / "checkpoint-1"
    workdir.mkdir(parents=True)
    (workdir / "state").write_text(secret)
    async with database.write() as session:
        session.add(
            JobCheckpointRow(
                id=f"ftckpt_{tenant}",
                tenant_id=tenant,
                job_id=job.json()["id"],
                created_at=1,
                step_number=1,
                model_name="m",
                metrics={},
            )
        )
        session.add(
            MergeRow(
                id=f"merge-{tenant}",
                tenant_id=tenant,
                adapter="support",
                digest=ref.digest,
                model="m",
                spec={"note": secret},
                status="running",
                created_at=1,
                attempts=1,
                lease_token=1,
                lease_expires_at=1.0,
            )
        )
        for row in more_rows(tenant, secret):
            session.add(row)
            await session.flush()
    made: dict[str, Any] = job.json()
    return made


def more_rows(tenant: str, secret: str) -> list[DefaultBase]:
    """Make what no request leaves at once, one of each kind."""
    hook = f"wh_{tenant}"
    return [
        UsageRow(tenant_id=tenant, day=0, kind="generated", model="m"),
        RateRow(tenant_id=tenant, kind="requests", window=0),
        PlaceRow(tenant_id=tenant, holder="api", held=1, expires_at=1.0),
        IdempotencyRow(
            tenant_id=tenant,
            key="k",
            operation="createJob",
            request_sha256="0" * 64,
            status=200,
            answer={"note": secret},
            created_at=1,
        ),
        WebhookRow(
            id=hook,
            tenant_id=tenant,
            url=f"https://example.com/{secret}",
            events=["fine_tuning.job.succeeded"],
            created_at=1,
        ),
        DeliveryRow(
            id=f"whdel_{tenant}",
            tenant_id=tenant,
            webhook_id=hook,
            event_id="evt_1",
            type="fine_tuning.job.succeeded",
            payload={"note": secret},
            status="pending",
            created_at=1,
        ),
    ]


async def erased(admin: httpx.AsyncClient, tenant: str = "acme") -> dict[str, Any]:
    """Erase a tenant and wait for the end."""
    begun = await admin.delete(f"{TENANTS}/{tenant}")
    assert begun.status_code == 202, begun.text
    return await done(admin, begun.json()["id"])


async def done(admin: httpx.AsyncClient, erasure_id: str) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while True:
            erasure: dict[str, Any] = (await admin.get(f"{ERASURES}/{erasure_id}")).json()
            if erasure["status"] == "done":
                return erasure


def holding(folder: Path, secret: str) -> list[str]:
    """Name the files below a folder that have a text in their content or name."""
    found = []
    for path in folder.rglob("*"):
        named = secret in str(path.relative_to(folder))
        if named or (path.is_file() and secret.encode() in path.read_bytes()):
            found.append(str(path.relative_to(folder)))
    return found


def into_the_file(settings: Settings) -> None:
    """Move what SQLite's log holds into the database's own pages, as time does."""
    if settings.database_url:
        return
    with closing(sqlite3.connect(settings.data_dir / "lorehouse.db")) as connection:
        [busy, *_] = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert not busy


async def rows_of(database: Database, tenant: str) -> dict[str, int]:
    async with database.read() as session:
        counts = {
            table.name: await session.scalar(
                select(func.count()).where(table.c.tenant_id == tenant)
            )
            for table in TABLES
        }
    return {name: count for name, count in counts.items() if count}


async def test_nothing_of_the_tenant_is_left_anywhere_and_all_of_the_other_is(
    admin: httpx.AsyncClient,
    acme: httpx.AsyncClient,
    globex: httpx.AsyncClient,
    database: Database,
    store: AdapterStore,
    settings: Settings,
    parts: dict[str, Any],
) -> None:
    await furnish(acme, "acme", SECRET, **parts)
    await furnish(globex, "globex", "theirs-is-another", **parts)
    before = await rows_of(database, "acme")
    others = await rows_of(database, "globex")
    assert set(before) == {table.name for table in TABLES}, "a kind of row that is not tested"
    into_the_file(settings)
    held = {name.split("/")[0] for name in holding(settings.data_dir, SECRET)}
    rows = set() if settings.database_url else {"lorehouse.db"}
    assert held == {"files", "uploads", "adapters", "jobs", *rows}
    size = store.size("acme")

    erasure = await erased(admin)

    assert holding(settings.data_dir, SECRET) == []
    assert holding(settings.data_dir / "adapters", "acme") == []
    assert holding(settings.data_dir / "files", "acme") == []
    assert await rows_of(database, "acme") == {}
    async with database.read() as session:
        assert await session.get(TenantRow, "acme") is None
    # Cancelling its job told of it.
    assert erasure["report"]["rows"] == before | {"job_events": before["job_events"] + 1}
    assert erasure["report"]["adapter_bytes"] == size > 0
    assert erasure["report"]["file_bytes"] > 0
    assert SECRET not in json.dumps(erasure)
    assert (await acme.get("/v1/models")).status_code == 401
    listed = (await admin.get(ERASURES)).json()
    assert (listed["data"], listed["has_more"]) == ([erasure], False)

    assert await rows_of(database, "globex") == others
    assert holding(settings.data_dir, "theirs-is-another")
    assert len((await globex.get("/v1/models")).json()["data"]) == 2

    assert (await admin.post(TENANTS, json={"id": "acme"})).status_code == 201
    assert (await admin.get(f"{ERASURES}/{erasure['id']}")).json() == erasure


async def test_the_tenant_is_shut_out_at_once_and_its_id_is_taken_until_the_end(
    admin: httpx.AsyncClient,
    acme: httpx.AsyncClient,
    database: Database,
    parts: dict[str, Any],
) -> None:
    job = await furnish(acme, "acme", SECRET, **parts)
    async with database.write() as session:
        claimed = await JobRepository(session).claim("runtime-1", 60, Quotas())
    assert claimed is not None
    assert claimed.id == job["id"]

    begun = await admin.delete(f"{TENANTS}/acme")
    assert (begun.status_code, begun.json()["status"]) == (202, "running")
    assert (await acme.get("/v1/models")).status_code == 401
    taken = await admin.post(TENANTS, json={"id": "acme"})
    assert (taken.status_code, error_of(taken)["code"]) == (409, "tenant_being_erased")
    key = await admin.post(f"{TENANTS}/acme/keys", json={"name": "late"})
    assert (key.status_code, error_of(key)["code"]) == (409, "tenant_being_erased")
    late = await admin.post("/v1/tenants/acme/generate", json={"prompt": "x"})
    assert (late.status_code, error_of(late)["code"]) == (409, "tenant_being_erased")
    again = await admin.delete(f"{TENANTS}/acme")
    assert again.json()["id"] == begun.json()["id"]

    # The runtime lets go at its next step.
    async with asyncio.timeout(10):
        while True:
            async with database.write() as session:
                if await JobRepository(session).heartbeat(claimed.id, claimed.lease_token, 60):
                    await JobRepository(session).finish(
                        claimed.id, claimed.lease_token, "cancelled"
                    )
                    break
    assert (await done(admin, begun.json()["id"]))["report"]["rows"]["jobs"] == 1
    assert await rows_of(database, "acme") == {}


async def test_a_job_whose_runtime_died_is_ended_when_its_lease_is_over(
    admin: httpx.AsyncClient,
    acme: httpx.AsyncClient,
    database: Database,
    parts: dict[str, Any],
) -> None:
    await furnish(acme, "acme", SECRET, **parts)
    async with database.write() as session:
        claimed = await JobRepository(session).claim("runtime-1", 0.3, Quotas())
    assert claimed is not None
    await erased(admin)
    async with database.write() as session:
        assert await session.scalar(select(func.count()).select_from(JobRow)) == 0
        with pytest.raises(LeaseLost):
            await JobRepository(session).heartbeat(claimed.id, claimed.lease_token, 60)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_does_not_end_is_cut_after_the_grace(
    app: Litestar,
    admin: httpx.AsyncClient,
    acme: httpx.AsyncClient,
    engine: FakeEngine,
    database: Database,
    parts: dict[str, Any],
    stream: bool,
) -> None:
    await furnish(acme, "acme", SECRET, **parts)
    (await app.dependencies["erasures"].dependency()).grace = 0.05  # type: ignore[operator]
    engine.pause()
    body = {"model": "support", "messages": HELLO, "stream": stream}
    hanging = asyncio.create_task(acme.post(CHAT, json=body))
    await engine.wait_until(running=1)
    await erased(admin)
    answer = await hanging
    assert answer.status_code == 401
    assert engine.cancelled
    assert await rows_of(database, "acme") == {}


async def test_unknown_ones_are_not_found_and_tenants_may_not(
    admin: httpx.AsyncClient, acme: httpx.AsyncClient
) -> None:
    assert (await admin.delete(f"{TENANTS}/nobody")).status_code == 404
    assert (await admin.get(f"{ERASURES}/erasure_0")).status_code == 404
    assert (await admin.get(ERASURES, params={"after": "erasure_0"})).status_code == 400
    assert (await acme.delete(f"{TENANTS}/acme")).status_code == 403
    assert (await acme.get(ERASURES)).status_code == 403
    await erased(admin)
    assert (await admin.delete(f"{TENANTS}/acme")).status_code == 404
