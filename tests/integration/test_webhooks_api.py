"""`/v1/webhooks`: made with a secret, rotated, shown, deleted; and one told by the whole server."""

from typing import Any

import httpx
import msgspec
import openai
import pytest
from sqlalchemy import select

from service.database import Database
from service.database.models import DeliveryRow, WebhookRow
from service.settings import Settings
from service.webhooks.service import MOST_WEBHOOKS
from service.wire import now
from tests.fakes.receiver import receiving
from tests.integration.test_jobs_api import a_file, create

WEBHOOKS = "/v1/webhooks"
URL = "https://example.com/hook"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Webhooks may go to loopback."""
    return msgspec.structs.replace(settings, webhooks_private=True)


async def made(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await client.post(WEBHOOKS, json={"url": URL} | fields)
    assert answer.status_code == 201, answer.text
    webhook: dict[str, Any] = answer.json()
    return webhook


async def test_a_jobs_end_reaches_a_receiver_that_openais_sdk_believes(
    acme: httpx.AsyncClient, database: Database
) -> None:
    async with receiving() as receiver:
        webhook = await made(acme, url=receiver.url, description="ours")
        await a_file(database, "file-train")
        job = await create(acme)
        await acme.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel")
        [got] = await receiver.count(1)
    client = openai.OpenAI(api_key="none", webhook_secret=webhook["secret"])
    event = client.webhooks.unwrap(got.body, got.headers)
    assert (event.type, event.object) == ("fine_tuning.job.cancelled", "event")
    assert event.data.id == job["id"]
    assert event.id.startswith("evt_")
    assert got.headers["webhook-id"] == event.id
    assert got.target == "/hook?from=lorehouse"
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(got.body.replace(b"cancelled", b"succeeded"), got.headers)


async def test_the_secret_is_shown_once_and_stored_nowhere(
    acme: httpx.AsyncClient, settings: Settings
) -> None:
    webhook = await made(acme)
    secret = webhook.pop("secret")
    assert secret.startswith("whsec_")
    shown = (await acme.get(f"{WEBHOOKS}/{webhook['id']}")).json()
    assert shown == webhook
    assert (await acme.get(WEBHOOKS)).json()["data"] == [webhook]
    assert all(
        secret.encode() not in file.read_bytes()
        for file in settings.data_dir.iterdir()
        if file.is_file()
    )
    assert set(webhook["events"]) == {
        f"fine_tuning.job.{end}" for end in ("succeeded", "failed", "cancelled")
    }


async def test_rotating_gives_another_secret_and_says_how_long_both_sign(
    acme: httpx.AsyncClient,
) -> None:
    webhook = await made(acme)
    path = f"{WEBHOOKS}/{webhook['id']}/rotate"
    rotated = (await acme.post(path, json={"overlap_seconds": 60})).json()
    assert rotated["secret"] != webhook["secret"]
    assert rotated["previous_secret_until"] >= webhook["created_at"] + 60
    again = (await acme.post(path, json={})).json()
    assert len({webhook["secret"], rotated["secret"], again["secret"]}) == 3


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"url": "ftp://example.com"}, "url"),
        ({"url": "https://user:word@example.com"}, "url"),
        ({"url": "https://169.254.169.254/latest"}, "url"),
        ({"url": "https://example.com/#part"}, "url"),
        ({"events": []}, "events"),
        ({"events": ["fine_tuning.job.begun"]}, "events[0]"),
        ({"secret": "mine"}, "secret"),
    ],
)
async def test_a_bad_webhook_is_refused_by_field(
    acme: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    answer = await acme.post(WEBHOOKS, json={"url": URL} | fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_a_tenant_has_only_so_many(acme: httpx.AsyncClient) -> None:
    for _ in range(MOST_WEBHOOKS):
        await made(acme)
    answer = await acme.post(WEBHOOKS, json={"url": URL})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "too_many_webhooks")
    page = (await acme.get(WEBHOOKS, params={"limit": 10})).json()
    rest = await acme.get(WEBHOOKS, params={"limit": 10, "after": page["last_id"]})
    assert (len(rest.json()["data"]), rest.json()["has_more"]) == (MOST_WEBHOOKS - 10, False)


async def test_anothers_webhook_and_delivery_are_not_found(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient, database: Database
) -> None:
    webhook = (await made(acme))["id"]
    delivery = await a_delivery(database, webhook)
    for method, path in [
        ("GET", f"{WEBHOOKS}/{webhook}"),
        ("DELETE", f"{WEBHOOKS}/{webhook}"),
        ("POST", f"{WEBHOOKS}/{webhook}/rotate"),
        ("GET", f"{WEBHOOKS}/{webhook}/deliveries"),
        ("POST", f"{WEBHOOKS}/{webhook}/deliveries/{delivery}/redeliver"),
    ]:
        body = {} if path.endswith("rotate") else None
        foreign = await globex.request(method, path, json=body)
        unknown = await globex.request(method, path.replace(webhook, "wh_none"), json=body)
        assert foreign.status_code == unknown.status_code == 404
        assert foreign.text.replace(webhook, "wh_none") == unknown.text
    theirs = (await made(globex))["id"]
    mixed = await globex.post(f"{WEBHOOKS}/{theirs}/deliveries/{delivery}/redeliver")
    assert mixed.status_code == 404


async def test_deliveries_are_listed_sent_again_and_deleted_with_their_webhook(
    acme: httpx.AsyncClient, database: Database
) -> None:
    webhook = (await made(acme))["id"]
    first, second = [await a_delivery(database, webhook, event=f"evt_{n}") for n in (1, 2)]
    path = f"{WEBHOOKS}/{webhook}/deliveries"
    page = (await acme.get(path, params={"limit": 1})).json()
    assert [one["id"] for one in page["data"]] == [second]
    [last] = (await acme.get(path, params={"after": page["last_id"]})).json()["data"]
    assert (last["id"], last["status"], last["last_status"]) == (first, "failed", 500)
    assert last["event"]["type"] == "fine_tuning.job.failed"
    again = await acme.post(f"{path}/{first}/redeliver")
    assert again.status_code == 202
    assert (again.json()["status"], again.json()["attempts"]) == ("pending", 0)
    assert (await acme.delete(f"{WEBHOOKS}/{webhook}")).json()["deleted"] is True
    assert (await acme.get(path)).status_code == 404
    async with database.read() as session:
        assert await session.scalar(select(DeliveryRow)) is None
        assert await session.scalar(select(WebhookRow)) is None


async def a_delivery(database: Database, webhook: str, event: str = "evt_1") -> str:
    """Keep one that has failed for good."""
    async with database.write() as session:
        row = DeliveryRow(
            id=f"whd_{event}",
            tenant_id="acme",
            webhook_id=webhook,
            event_id=event,
            type="fine_tuning.job.failed",
            payload={"id": event, "type": "fine_tuning.job.failed"},
            status="failed",
            attempts=11,
            last_status=500,
            created_at=now(),
        )
        session.add(row)
    return row.id
