"""`Idempotency-Key`: sent again, a creating request creates nothing more, and is answered alike."""

import asyncio
from typing import Any

import httpx
import pytest
from litestar import Litestar
from sqlalchemy import func, select, update

from service.database import Database
from service.database.models import (
    ApiKeyRow,
    FileRow,
    IdempotencyRow,
    JobRow,
    MergeRow,
    UploadPartRow,
    UploadRow,
    WebhookRow,
)
from service.settings import Settings
from service.tenants.idempotency import IDEMPOTENT, LONGEST, Answers
from service.tenants.idempotency_repository import LIFETIME_SECONDS
from tests.integration import dying
from tests.integration.generating import BASE, error_of, publish
from tests.integration.test_tenants_api import bearer, make_key

UPLOAD = dying.BODY
ROW = b'{"prompt": "a", "completion": "b"}\n'
KEY = {"idempotency-key": "once"}


async def count(database: Database, kind: Any) -> int:
    async with database.read() as session:
        return await session.scalar(select(func.count()).select_from(kind)) or 0


async def sent(client: httpx.AsyncClient, path: str, key: str = "once", **body: Any) -> Any:
    if "content" in body:
        body = {"files": {body["name"]: ("a.jsonl", body["content"])}, "data": body["data"]}
    return await client.post(path, headers={"idempotency-key": key}, **body)


async def file(client: httpx.AsyncClient, key: str = "file", content: bytes = ROW) -> Any:
    data = {"purpose": "fine-tune"}
    return await sent(client, "/v1/files", key, name="file", content=content, data=data)


async def upload(client: httpx.AsyncClient) -> Any:
    return await sent(client, "/v1/uploads", json=UPLOAD)


async def part(client: httpx.AsyncClient) -> Any:
    made = (await sent(client, "/v1/uploads", "of the part", json=UPLOAD)).json()["id"]
    return await sent(client, f"/v1/uploads/{made}/parts", name="data", content=b"hello", data={})


async def job(client: httpx.AsyncClient) -> Any:
    made = (await file(client, "of the job")).json()["id"]
    return await sent(client, "/v1/fine_tuning/jobs", json={"model": BASE, "training_file": made})


async def merge(client: httpx.AsyncClient) -> Any:
    [revision] = (await client.get("/v1/adapters/support/revisions")).json()["data"]
    path = f"/v1/adapters/support/revisions/{revision['rev']}/merge"
    return await sent(client, path, json={})


MADE = {
    "createFile": (file, FileRow),
    "createUpload": (upload, UploadRow),
    "createUploadPart": (part, UploadPartRow),
    "createFineTuningJob": (job, JobRow),
    "createMerge": (merge, MergeRow),
}


@pytest.mark.parametrize("operation", MADE)
async def test_the_same_request_again_is_answered_as_the_first_time_and_makes_nothing(
    acme: httpx.AsyncClient, database: Database, operation: str
) -> None:
    send, kind = MADE[operation]
    if operation == "createMerge":
        await publish(database, "acme", "support")
    first, again = await send(acme), await send(acme)
    assert first.is_success, first.text
    assert "idempotent-replayed" not in first.headers
    assert (again.status_code, again.text) == (first.status_code, first.text)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["content-type"] == first.headers["content-type"]
    assert await count(database, kind) == 1


def test_every_creating_operation_takes_a_key(app: Litestar) -> None:
    handlers = [h for route in app.routes for h in getattr(route, "route_handlers", ())]
    taking = {h.operation_id for h in handlers if h.opt.get(IDEMPOTENT)}
    keys = {"createApiKey", "createOwnApiKey", "rotateApiKey", "rotateOwnApiKey"}
    assert taking == {*MADE, *keys, "importAdapter", "createWebhook"}


async def test_another_request_under_the_key_is_refused(
    acme: httpx.AsyncClient, database: Database
) -> None:
    await file(acme, "once")
    others = [
        await file(acme, "once", ROW + ROW),
        await sent(acme, "/v1/uploads", json=UPLOAD),
    ]
    for other in others:
        assert other.status_code == 422
        assert error_of(other)["code"] == "idempotency_key_reused"
        assert error_of(other)["param"] == "idempotency-key"
    assert (await count(database, FileRow), await count(database, UploadRow)) == (1, 0)


async def test_while_the_first_is_under_way_the_second_is_to_come_again(
    acme: httpx.AsyncClient, database: Database
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> Any:
        begun.set()
        await go_on.wait()
        yield b'{"filename": "a", "purpose": "fine-tune", "bytes": 5, "mime_type": "text/plain"}'

    headers = KEY | {"content-type": "application/json"}
    first = asyncio.create_task(acme.post("/v1/uploads", content=slowly(), headers=headers))
    await begun.wait()
    second = await sent(acme, "/v1/uploads", json=UPLOAD)
    assert (second.status_code, second.headers["retry-after"]) == (409, "1")
    assert "x-should-retry" not in second.headers
    assert error_of(second)["code"] == "idempotency_key_in_use"
    go_on.set()
    assert (await first).status_code == 200
    assert await count(database, UploadRow) == 1


async def test_of_two_servers_asked_at_once_one_makes_it(
    acme: httpx.AsyncClient, database: Database, app: Litestar
) -> None:
    answers: Answers = await app.dependencies["answers"].dependency()
    # What the other server has under way, this one does not know.
    answers.under_way = _Forgetful()
    both = await asyncio.gather(*(sent(acme, "/v1/uploads", json=UPLOAD) for _ in range(2)))
    assert sorted(answer.status_code for answer in both) in ([200, 200], [200, 409])
    assert await count(database, UploadRow) == await count(database, IdempotencyRow) == 1


class _Forgetful(set[tuple[str, str]]):
    def __contains__(self, _: object) -> bool:
        return False


async def test_a_refused_request_may_be_sent_again_under_its_key(
    acme: httpx.AsyncClient, database: Database
) -> None:
    assert (await file(acme, "once", b"nonsense")).status_code == 400
    assert await count(database, IdempotencyRow) == 0
    assert (await file(acme, "once")).status_code == 200


@pytest.mark.parametrize("key", ["", "k" * (LONGEST + 1)])
async def test_a_bad_key_is_refused(acme: httpx.AsyncClient, key: str) -> None:
    answer = await sent(acme, "/v1/uploads", key, json=UPLOAD)
    assert answer.status_code == 400
    assert error_of(answer)["code"] == "invalid_idempotency_key"
    assert (await sent(acme, "/v1/uploads", "k" * LONGEST, json=UPLOAD)).status_code == 200


async def test_keys_are_a_tenants_own_and_open_nothing(
    acme: httpx.AsyncClient,
    globex: httpx.AsyncClient,
    admin: httpx.AsyncClient,
    database: Database,
) -> None:
    mine, theirs = await upload(acme), await upload(globex)
    assert mine.json()["id"] != theirs.json()["id"]
    # A key of the same tenant's that may not ask, is not told either.
    narrow = bearer((await make_key(admin, "acme", scopes=["jobs"]))["key"])
    refused = await acme.post("/v1/uploads", json=UPLOAD, headers=KEY | narrow)
    assert refused.status_code == 403


async def test_a_key_is_forgotten_after_a_day(acme: httpx.AsyncClient, database: Database) -> None:
    first = await upload(acme)
    async with database.write() as session:
        await session.execute(
            update(IdempotencyRow).values(created_at=IdempotencyRow.created_at - LIFETIME_SECONDS)
        )
    again = await upload(acme)
    assert again.json()["id"] != first.json()["id"]
    assert await count(database, IdempotencyRow) == 1


async def test_a_secret_is_neither_kept_nor_made_again(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient, database: Database
) -> None:
    before = await count(database, ApiKeyRow)
    hook = {"url": "https://example.com/hook", "events": ["fine_tuning.job.succeeded"]}
    asked = [
        (admin, "/v1/admin/tenants/acme/keys", {"name": "ci"}, "key"),
        (acme, "/v1/webhooks", hook, "hook"),
    ]
    for client, path, body, key in asked:
        first = await sent(client, path, key, json=body)
        assert first.status_code == 201, first.text
        again = await sent(client, path, key, json=body)
        assert again.status_code == 409
        assert again.headers["x-should-retry"] == "false"
        assert error_of(again)["code"] == "secret_shown_once"
        assert first.json()["id"] in error_of(again)["message"]
        async with database.read() as session:
            kept = str((await session.scalars(select(IdempotencyRow.answer))).all())
        assert first.json().get("key", first.json().get("secret")) not in kept
    assert await count(database, ApiKeyRow) == before + 1
    assert await count(database, WebhookRow) == 1


@pytest.mark.parametrize(("when", "made"), [(dying.IN_IT, 0), (dying.AFTER_IT, 1)])
async def test_a_kill_before_the_answer_loses_neither_the_answer_nor_its_line(
    acme: httpx.AsyncClient,
    admin: httpx.AsyncClient,
    database: Database,
    settings: Settings,
    when: str,
    made: int,
) -> None:
    headers = {"authorization": acme.headers["authorization"]} | KEY
    assert await asyncio.to_thread(dying.killed, settings, headers, when)
    assert await count(database, UploadRow) == await count(database, IdempotencyRow) == made
    audited = (await admin.get("/v1/admin/audit")).json()["data"]
    assert [line["operation"] for line in audited].count("createUpload") == made
    answer = await upload(acme)
    assert answer.status_code == 200
    assert ("idempotent-replayed" in answer.headers) == bool(made)
    async with database.read() as session:
        assert (await session.scalars(select(UploadRow.id))).all() == [answer.json()["id"]]
