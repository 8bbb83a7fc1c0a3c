"""Probes and metrics: open or guarded, and true."""

import re
import shutil
import time

import httpx
import pytest
from msgspec.structs import replace

from adapters_store import AdapterStore
from service.app import create_app
from service.database import Database
from service.database.models import DeliveryRow, JobRow, WebhookRow
from service.health import Monitor
from service.settings import Settings
from service.wire import now
from tests.conftest import ADMIN_KEY, URL
from tests.fakes.engine import FakeEngine


async def test_liveness_and_readiness_need_no_key(client: httpx.AsyncClient) -> None:
    live = await client.get("/health/live")
    assert (live.status_code, live.json()) == (200, {"status": "live"})
    ready = await client.get("/health/ready")
    assert ready.status_code == 200
    assert ready.json() == {
        "status": "ready",
        "database": "ready",
        "store": "ready",
        "engine": "ready",
    }


async def test_without_an_engine_it_lives_but_is_not_ready(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.available = False
    ready = await client.get("/health/ready")
    assert ready.status_code == 503
    assert ready.json()["status"] == "not_ready"
    assert ready.json()["engine"] == "not_ready"
    assert ready.json()["database"] == "ready"
    assert (await client.get("/health/live")).status_code == 200


async def test_a_store_that_cannot_be_written_is_not_ready(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    folder = settings.data_dir / "adapters"
    if folder.exists():
        shutil.rmtree(folder)
    folder.write_text("in the way")
    ready = await client.get("/health/ready")
    assert ready.status_code == 503
    assert ready.json()["store"] == "not_ready"


async def test_object_storage_is_ready_when_its_bucket_can_be_written(
    settings: Settings, database: Database, engine: FakeEngine, s3_url: str
) -> None:
    for url, state in ((s3_url, "ready"), ("s3://nobodys-bucket/adapters", "not_ready")):
        app = create_app(replace(settings, adapter_store=url), database=database, engine=engine)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as client:
            ready = await client.get("/health/ready")
        assert ready.json()["store"] == state
        assert ready.json()["database"] == "ready"


async def test_a_database_that_does_not_answer_is_not_ready(
    store: AdapterStore, engine: FakeEngine
) -> None:
    gone = Database("sqlite+aiosqlite:////nowhere/at/all.db")
    readiness = await Monitor(gone, engine, store).readiness()
    await gone.close()
    assert readiness.status == "not_ready"
    assert readiness.database == "not_ready"
    assert readiness.store == "ready"


async def test_metrics_tell_of_jobs_and_engine(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient, database: Database, engine: FakeEngine
) -> None:
    async with database.write() as session:
        for number, status in enumerate(["queued", "queued", "succeeded"]):
            session.add(_job(f"ftjob-{number}", status))
    chat = {"model": "lorehouse-tiny", "messages": [{"role": "user", "content": "hi"}]}
    await acme.post("/v1/chat/completions", json=chat)
    text = (await admin.get("/metrics")).text
    assert 'lorehouse_jobs{status="queued"} 2.0' in text
    assert 'lorehouse_jobs{status="succeeded"} 1.0' in text
    assert "lorehouse_engine_up 1.0" in text
    for name in ("running", "waiting", "resident_adapters"):
        assert f"lorehouse_engine_{name} 0.0" in text
    for name in ("generated_tokens", "adapter_loads", "adapter_evictions"):
        assert f"lorehouse_engine_{name}_total" in text
    assert 'lorehouse_first_token_seconds_count{tenant="acme"} 1.0' in text
    assert 'lorehouse_completion_tokens_total{kind="base",tenant="acme"}' in text
    assert 'lorehouse_tenant_requests_total{status="200",tenant="acme"} 1.0' in text


async def test_metrics_tell_of_what_is_late(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient, database: Database
) -> None:
    silent = _job("ftjob-1", "running")
    silent.lease_expires_at = time.time() - 1
    resting = _job("ftjob-2", "running")
    resting.lease_expires_at, resting.not_before = 0.0, time.time() + 60
    async with database.write() as session:
        session.add_all([silent, resting, _webhook()])
        await session.flush()
        session.add(_delivery(created_at=now() - 100))
    text = (await admin.get("/metrics")).text
    assert "lorehouse_lapsed_leases 1.0" in text
    assert "lorehouse_webhook_outbox 1.0" in text
    (age,) = re.findall(r"^lorehouse_webhook_outbox_age_seconds (\S+)$", text, re.MULTILINE)
    assert 100 <= float(age) < 160
    (free,) = re.findall(r"^lorehouse_disk_free_bytes (\S+)$", text, re.MULTILINE)
    assert float(free) > 0


async def test_tenants_beyond_the_limit_share_a_label(
    settings: Settings, database: Database, engine: FakeEngine
) -> None:
    app = create_app(replace(settings, metrics_tenants=1), database=database, engine=engine)
    operator = {"authorization": f"Bearer {ADMIN_KEY}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as client:
        for name in ("acme", "globex", "initech"):
            await client.post("/v1/admin/tenants", json={"id": name}, headers=operator)
            keys = f"/v1/admin/tenants/{name}/keys"
            made = await client.post(keys, json={"name": "tests"}, headers=operator)
            key = {"authorization": f"Bearer {made.json()['key']}"}
            assert (await client.get("/v1/models", headers=key)).status_code == 200
        text = (await client.get("/metrics", headers=operator)).text
    assert 'lorehouse_tenant_requests_total{status="200",tenant="acme"} 1.0' in text
    assert 'lorehouse_tenant_requests_total{status="200",tenant="_other"} 2.0' in text
    assert "globex" not in text
    assert "initech" not in text


async def test_metrics_go_on_without_an_engine(
    admin: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.available = False
    answer = await admin.get("/metrics")
    assert answer.status_code == 200
    assert "lorehouse_engine_up 0.0" in answer.text
    assert "lorehouse_engine_running" not in answer.text


@pytest.mark.parametrize("public", [False, True])
async def test_metrics_are_the_operators_unless_made_public(
    settings: Settings, database: Database, engine: FakeEngine, public: bool
) -> None:
    app = create_app(replace(settings, metrics_public=public), database=database, engine=engine)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/metrics")).status_code == (200 if public else 401)
        keyed = await client.get("/metrics", headers={"authorization": f"Bearer {ADMIN_KEY}"})
        assert keyed.status_code == 200
        assert keyed.headers["content-type"].startswith("text/plain; version=")


def _webhook() -> WebhookRow:
    return WebhookRow(id="wh-1", tenant_id="acme", url="https://a.test", events=[], created_at=1)


def _delivery(created_at: int) -> DeliveryRow:
    return DeliveryRow(
        id="delivery-1",
        tenant_id="acme",
        webhook_id="wh-1",
        event_id="event-1",
        type="fine_tuning.job.succeeded",
        payload={},
        status="pending",
        created_at=created_at,
    )


def _job(job_id: str, status: str) -> JobRow:
    return JobRow(
        id=job_id,
        tenant_id="acme",
        status=status,
        model="lorehouse-tiny",
        adapter=job_id,
        training_file="file-1",
        seed=1,
        method={},
        spec={},
        created_at=1,
    )
