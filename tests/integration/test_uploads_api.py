"""`/v1/uploads` through the whole app: files that arrive in parts."""

import asyncio
import hashlib
import json
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from service.app import create_app
from service.base.description import BaseDescription
from service.database import Database
from service.database.models import UploadPartRow, UploadRow
from service.datasets.service import FileService
from service.datasets.uploads import UploadService
from service.rendering.renderer import Renderer
from service.serving.engine import Engine
from service.settings import Settings
from service.tenants.quotas import Quotas
from service.wire import now
from tests.integration.test_files_api import FILE_KEYS, GOOD, error, on_disk

HALVES = GOOD[:70], GOOD[70:]


async def create(client: httpx.AsyncClient, **given: Any) -> httpx.Response:
    body = {
        "filename": "train.jsonl",
        "purpose": "fine-tune",
        "bytes": len(GOOD),
        "mime_type": "text/jsonl",
        **given,
    }
    return await client.post("/v1/uploads", json=body)


async def created(client: httpx.AsyncClient, **given: Any) -> str:
    answer = await create(client, **given)
    assert answer.status_code == 200, answer.text
    upload_id: str = answer.json()["id"]
    return upload_id


async def add(client: httpx.AsyncClient, upload: str, data: bytes) -> httpx.Response:
    return await client.post(f"/v1/uploads/{upload}/parts", files={"data": ("upload", data)})


async def added(client: httpx.AsyncClient, upload: str, *datas: bytes) -> list[str]:
    answers = await asyncio.gather(*(add(client, upload, data) for data in datas))
    assert [answer.status_code for answer in answers] == [200] * len(datas)
    return [answer.json()["id"] for answer in answers]


async def complete(
    client: httpx.AsyncClient, upload: str, parts: list[str], **given: Any
) -> httpx.Response:
    body = {"part_ids": parts, **given}
    return await client.post(f"/v1/uploads/{upload}/complete", json=body)


async def test_parts_become_a_file_in_the_order_asked_for(
    acme: httpx.AsyncClient, settings: Settings
) -> None:
    answer = (await create(acme)).json()
    assert answer.keys() == {
        "id",
        "object",
        "bytes",
        "created_at",
        "expires_at",
        "filename",
        "purpose",
        "status",
        "file",
    }
    assert (answer["object"], answer["status"], answer["file"]) == ("upload", "pending", None)
    assert answer["expires_at"] == answer["created_at"] + 3600
    last, first = await added(acme, answer["id"], HALVES[1], HALVES[0])
    md5 = hashlib.md5(GOOD).hexdigest()
    done = (await complete(acme, answer["id"], [first, last], md5=md5)).json()
    assert (done["status"], done["file"].keys()) == ("completed", FILE_KEYS)
    assert (done["file"]["rows"], done["file"]["filename"]) == (3, "train.jsonl")
    content = await acme.get(f"/v1/files/{done['file']['id']}/content")
    assert content.content == GOOD
    assert on_disk(settings) == [done["file"]["id"]]


async def test_a_part_is_told_as_openai_tells_it(acme: httpx.AsyncClient) -> None:
    upload = await created(acme)
    part = (await add(acme, upload, b"x")).json()
    assert part.keys() == {"id", "object", "created_at", "upload_id"}
    assert (part["object"], part["upload_id"]) == ("upload.part", upload)


async def test_completing_again_gives_the_same_file(acme: httpx.AsyncClient) -> None:
    upload = await created(acme)
    parts = await added(acme, upload, GOOD)
    first, again = [(await complete(acme, upload, parts)).json() for _ in range(2)]
    assert again == first
    await acme.delete(f"/v1/files/{first['file']['id']}")
    assert (await complete(acme, upload, parts)).json()["file"] is None


async def test_completing_twice_at_once_makes_one_file(
    acme: httpx.AsyncClient, settings: Settings
) -> None:
    upload = await created(acme)
    parts = await added(acme, upload, GOOD)
    answers = await asyncio.gather(*(complete(acme, upload, parts) for _ in range(4)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    files = (await acme.get("/v1/files")).json()["data"]
    assert on_disk(settings) == [file["id"] for file in files]
    assert len(files) == 1


@pytest.mark.parametrize("given", [{"md5": "0" * 32}, {"md5": "x"}])
async def test_another_digest_is_refused(acme: httpx.AsyncClient, given: dict[str, str]) -> None:
    upload = await created(acme)
    parts = await added(acme, upload, GOOD)
    assert error(await complete(acme, upload, parts, **given), 400)["param"] == "md5"
    assert (await complete(acme, upload, parts)).status_code == 200


async def test_wrong_parts_are_refused(acme: httpx.AsyncClient) -> None:
    upload, other = await created(acme), await created(acme)
    first, second = await added(acme, upload, *HALVES)
    [foreign] = await added(acme, other, HALVES[1])
    for parts in ([first], [first, first], [first, foreign], [first, "part_no"]):
        assert error(await complete(acme, upload, parts), 400)["param"] == "part_ids"
    assert error(await complete(acme, upload, []), 400)
    assert (await complete(acme, upload, [first, second])).status_code == 200


async def test_a_bad_training_file_is_told_and_the_upload_stays_pending(
    acme: httpx.AsyncClient, settings: Settings
) -> None:
    bad = json.dumps({"text": ""}).encode()
    upload = await created(acme, bytes=len(bad))
    parts = await added(acme, upload, bad)
    told = error(await complete(acme, upload, parts), 400)
    assert (told["code"], told["error_count"]) == ("invalid_training_file", 1)
    assert on_disk(settings) == parts
    cancelled = await acme.post(f"/v1/uploads/{upload}/cancel")
    assert cancelled.json()["status"] == "cancelled"


async def test_a_cancelled_upload_takes_nothing_more(
    acme: httpx.AsyncClient, settings: Settings
) -> None:
    upload = await created(acme)
    parts = await added(acme, upload, GOOD)
    for _ in range(2):
        answer = await acme.post(f"/v1/uploads/{upload}/cancel")
        assert answer.json()["status"] == "cancelled"
    assert on_disk(settings) == []
    for refused in (await add(acme, upload, b"x"), await complete(acme, upload, parts)):
        assert "cancelled" in error(refused, 409)["message"]
        assert refused.headers["x-should-retry"] == "false"


async def test_a_completed_upload_is_not_cancelled(acme: httpx.AsyncClient) -> None:
    upload = await created(acme)
    await complete(acme, upload, await added(acme, upload, GOOD))
    assert error(await acme.post(f"/v1/uploads/{upload}/cancel"), 409)
    assert error(await add(acme, upload, b"x"), 409)


async def test_another_tenants_upload_is_not_found(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient
) -> None:
    upload = await created(acme)
    parts = await added(acme, upload, GOOD)
    assert error(await add(globex, upload, b"x"), 404)
    assert error(await complete(globex, upload, parts), 404)
    theirs = await globex.post(f"/v1/uploads/{upload}/cancel")
    nobodys = await globex.post("/v1/uploads/upload_no/cancel")
    assert error(theirs, 404)
    assert theirs.text.replace(upload, "upload_no") == nobodys.text


async def test_what_is_announced_is_checked(acme: httpx.AsyncClient, settings: Settings) -> None:
    too_large = error(await create(acme, bytes=settings.max_file_bytes + 1), 413)
    assert too_large["param"] == "bytes"
    assert "LOREHOUSE_MAX_FILE_BYTES" in too_large["message"]
    for field, value in [("bytes", 0), ("purpose", "fun"), ("colour", 1), ("filename", "")]:
        assert error(await create(acme, **{field: value}), 400)["param"] == field
    expiry = {"anchor": "created_at", "seconds": 1}
    assert error(await create(acme, expires_after=expiry), 400)


async def test_the_files_expiry_counts_from_its_completion(acme: httpx.AsyncClient) -> None:
    expiry = {"anchor": "created_at", "seconds": 3600}
    upload = await created(acme, expires_after=expiry)
    file = (await complete(acme, upload, await added(acme, upload, GOOD))).json()["file"]
    assert file["expires_at"] == file["created_at"] + 3600


async def test_the_form_of_a_part_is_checked(acme: httpx.AsyncClient, settings: Settings) -> None:
    upload = await created(acme)
    path = f"/v1/uploads/{upload}/parts"
    assert error(await acme.post(path, files={"file": ("x", b"x")}), 400)["param"] == "file"
    assert error(await acme.post(path, json={}), 400)
    assert on_disk(settings) == []


async def test_a_late_upload_expires_and_its_parts_go(
    acme: httpx.AsyncClient, database: Database, settings: Settings
) -> None:
    upload = await created(acme)
    parts = await added(acme, upload, GOOD)
    async with database.write() as session:
        late = update(UploadRow).where(UploadRow.id == upload).values(expires_at=now() - 1)
        await session.execute(late)
    assert "expired" in error(await complete(acme, upload, parts), 409)["message"]
    other = await created(acme)
    assert on_disk(settings) == []
    async with database.read() as session:
        row = await session.scalar(select(UploadRow).where(UploadRow.id == upload))
        assert row is not None
        assert row.status == "expired"
        assert (await session.scalars(select(UploadPartRow))).all() == []
    assert (await add(acme, other, b"x")).status_code == 200


async def test_at_start_parts_without_a_pending_upload_are_removed(
    acme: httpx.AsyncClient, database: Database, settings: Settings, renderer: Renderer
) -> None:
    kept = await added(acme, await created(acme), b"x")
    root = settings.data_dir.resolve()
    orphan = root / "uploads" / "acme" / "upload_orphan"
    orphan.mkdir()
    (orphan / "part").write_bytes(b"x")
    files = FileService(database, root, renderer, settings.max_file_bytes, Quotas())
    await UploadService(database, files).clean()
    assert on_disk(settings) == kept


async def test_a_start_of_the_app_removes_the_parts_of_no_upload(
    settings: Settings, base: BaseDescription, engine: Engine, database: Database
) -> None:
    orphan = settings.data_dir / "uploads" / "acme" / "upload_gone"
    orphan.mkdir(parents=True)
    (orphan / "part_1").write_bytes(b"x")
    app = create_app(settings, base=base, engine=engine, database=database)
    async with app.lifespan():
        assert not orphan.exists()
