"""`/v1/files` through the whole app, on a real database and real files."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from service.database import Database
from service.database.models import FileRow, JobRow
from service.datasets.service import FileService
from service.errors import NotFound
from service.rendering.renderer import Renderer
from service.settings import Settings
from service.tenants.quotas import Quotas
from service.wire import now

TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
ROWS = [json.dumps({"messages": TURNS})] * 3
GOOD = "\n".join(ROWS).encode()

FILE_KEYS = {
    "id",
    "object",
    "bytes",
    "created_at",
    "expires_at",
    "filename",
    "purpose",
    "status",
    "status_details",
    "format",
    "rows",
    "tokens",
    "longest_example",
}


async def upload(
    client: httpx.AsyncClient,
    data: bytes = GOOD,
    purpose: str = "fine-tune",
    filename: str = "train.jsonl",
    **fields: str,
) -> httpx.Response:
    return await client.post(
        "/v1/files", data={"purpose": purpose, **fields}, files={"file": (filename, data)}
    )


async def uploaded(client: httpx.AsyncClient, **given: Any) -> dict[str, Any]:
    answer = await upload(client, **given)
    assert answer.status_code == 200, answer.text
    file: dict[str, Any] = answer.json()
    return file


def error(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    told: dict[str, Any] = answer.json()["error"]
    assert {"message", "type", "param", "code"} <= told.keys()
    return told


def on_disk(settings: Settings) -> list[str]:
    root = settings.data_dir.resolve()
    folders = [root / "files", root / "incoming", root / "uploads"]
    return [path.name for folder in folders for path in folder.rglob("*") if path.is_file()]


class TestCreate:
    async def test_a_good_training_file_is_counted_and_kept(
        self, acme: httpx.AsyncClient, settings: Settings
    ) -> None:
        file = await uploaded(acme)
        assert file.keys() == FILE_KEYS
        assert file["id"].startswith("file-")
        assert (file["object"], file["status"], file["purpose"]) == (
            "file",
            "processed",
            "fine-tune",
        )
        assert (file["bytes"], file["filename"]) == (len(GOOD), "train.jsonl")
        assert (file["format"], file["rows"]) == ("messages", 3)
        assert file["tokens"] == 3 * file["longest_example"] > 0
        assert on_disk(settings) == [file["id"]]

    async def test_a_bad_line_is_told_and_nothing_is_kept(
        self, acme: httpx.AsyncClient, settings: Settings
    ) -> None:
        told = error(await upload(acme, data=GOOD + b'\n{"text": "x"}\nnot json'), 400)
        assert (told["code"], told["param"]) == ("invalid_training_file", "file")
        assert [fault["line"] for fault in told["errors"]] == [4, 5]
        assert told["error_count"] == 2
        assert on_disk(settings) == []
        assert (await acme.get("/v1/files")).json()["data"] == []

    @pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf" + GOOD, b"\xff\xfe", b"[]"])
    async def test_a_file_that_holds_no_rows_is_refused(
        self, acme: httpx.AsyncClient, data: bytes
    ) -> None:
        told = error(await upload(acme, data=data), 400)
        assert told["code"] == "invalid_training_file"
        assert told["errors"][0]["line"] == 1

    @pytest.mark.parametrize("purpose", ["batch", "assistants", "vision", "user_data", "evals"])
    async def test_files_of_other_purposes_are_kept_as_they_are(
        self, acme: httpx.AsyncClient, purpose: str
    ) -> None:
        file = await uploaded(acme, purpose=purpose, data=b"\x00\xff")
        assert (file["rows"], file["tokens"], file["format"]) == (None, None, None)
        content = await acme.get(f"/v1/files/{file['id']}/content")
        assert content.content == b"\x00\xff"

    async def test_the_fields_of_the_form_are_checked(
        self, acme: httpx.AsyncClient, settings: Settings
    ) -> None:
        assert error(await upload(acme, purpose="fun"), 400)["param"] == "purpose"
        assert error(await upload(acme, colour="red"), 400)["param"] == "colour"
        without = await acme.post("/v1/files", files={"file": ("x", GOOD)})
        assert error(without, 400)["code"] == "missing_required_parameter"
        no_file = await acme.post(
            "/v1/files", data={"purpose": "fine-tune"}, files={"purposes": ("x", b"")}
        )
        assert error(no_file, 400)["param"] == "purposes"
        plain = await acme.post("/v1/files", json={"purpose": "fine-tune"})
        assert "multipart/form-data" in error(plain, 400)["message"]
        assert error(await acme.post("/v1/files"), 400)
        assert on_disk(settings) == []

    async def test_a_filename_is_shown_without_its_folders(self, acme: httpx.AsyncClient) -> None:
        assert (await uploaded(acme, filename="../../etc/x.jsonl"))["filename"] == "x.jsonl"

    async def test_it_needs_the_scope_files(
        self, admin: httpx.AsyncClient, acme: httpx.AsyncClient
    ) -> None:
        made = await admin.post(
            "/v1/admin/tenants/acme/keys", json={"name": "x", "scopes": ["jobs"]}
        )
        headers = {"authorization": f"Bearer {made.json()['key']}"}
        assert error(await acme.get("/v1/files", headers=headers), 403)


class TestShow:
    async def test_content_comes_back_byte_for_byte(self, acme: httpx.AsyncClient) -> None:
        file = await uploaded(acme, filename="naïve ✓.jsonl")
        answer = await acme.get(f"/v1/files/{file['id']}/content")
        assert answer.content == GOOD
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-length"] == str(len(GOOD))
        assert "na%C3%AFve%20%E2%9C%93.jsonl" in answer.headers["content-disposition"]

    async def test_a_file_is_shown_as_it_was_created(self, acme: httpx.AsyncClient) -> None:
        file = await uploaded(acme)
        assert (await acme.get(f"/v1/files/{file['id']}")).json() == file

    async def test_lists_walk_from_page_to_page(self, acme: httpx.AsyncClient) -> None:
        ids = [(await uploaded(acme, purpose="batch"))["id"] for _ in range(3)]
        await uploaded(acme)
        query = {"purpose": "batch", "limit": 2}
        first = (await acme.get("/v1/files", params=query)).json()
        assert [file["id"] for file in first["data"]] == [ids[2], ids[1]]
        assert (first["object"], first["has_more"]) == ("list", True)
        assert (first["first_id"], first["last_id"]) == (ids[2], ids[1])
        rest = (await acme.get("/v1/files", params={**query, "after": first["last_id"]})).json()
        assert ([file["id"] for file in rest["data"]], rest["has_more"]) == ([ids[0]], False)
        oldest = (await acme.get("/v1/files", params={**query, "order": "asc"})).json()
        assert [file["id"] for file in oldest["data"]] == ids[:2]

    @pytest.mark.parametrize(
        "query", ["limit=0", "limit=x", "limit=10001", "order=up", "purpose=fun", "after=file-no"]
    )
    async def test_a_bad_query_is_refused(self, acme: httpx.AsyncClient, query: str) -> None:
        assert error(await acme.get(f"/v1/files?{query}"), 400)


class TestOtherTenants:
    async def test_their_files_are_not_found_in_the_same_words(
        self, acme: httpx.AsyncClient, globex: httpx.AsyncClient
    ) -> None:
        file = (await uploaded(acme))["id"]
        for method, path in [("GET", ""), ("GET", "/content"), ("DELETE", "")]:
            theirs = await globex.request(method, f"/v1/files/{file}{path}")
            nobodys = await globex.request(method, f"/v1/files/file-nobodys{path}")
            assert error(theirs, 404)["code"] == "not_found"
            assert theirs.text.replace(file, "file-nobodys") == nobodys.text
        assert (await globex.get("/v1/files")).json()["data"] == []
        assert error(await globex.get("/v1/files", params={"after": file}), 400)
        assert (await acme.get(f"/v1/files/{file}")).status_code == 200


class TestDelete:
    async def test_a_deleted_file_is_gone(
        self, acme: httpx.AsyncClient, settings: Settings
    ) -> None:
        file = (await uploaded(acme))["id"]
        answer = await acme.delete(f"/v1/files/{file}")
        assert answer.json() == {"id": file, "object": "file", "deleted": True}
        assert error(await acme.get(f"/v1/files/{file}"), 404)
        assert error(await acme.delete(f"/v1/files/{file}"), 404)
        assert on_disk(settings) == []

    async def test_a_file_that_an_unfinished_job_needs_stays(
        self, acme: httpx.AsyncClient, database: Database
    ) -> None:
        train, held_out = (await uploaded(acme))["id"], (await uploaded(acme))["id"]
        job = await add_job(database, train, held_out, "running")
        for file in (train, held_out):
            refused = await acme.delete(f"/v1/files/{file}")
            assert error(refused, 409)["code"] == "file_in_use"
            assert refused.headers["x-should-retry"] == "false"
        await set_status(database, job, "succeeded")
        for file in (train, held_out):
            assert (await acme.delete(f"/v1/files/{file}")).status_code == 200


class TestExpiry:
    async def test_an_expiry_is_recorded(self, acme: httpx.AsyncClient) -> None:
        fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
        file = await uploaded(acme, **fields)
        assert file["expires_at"] == file["created_at"] + 3600

    @pytest.mark.parametrize("seconds", ["3599", "2592001", "soon", ""])
    async def test_a_bad_expiry_is_refused(self, acme: httpx.AsyncClient, seconds: str) -> None:
        fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": seconds}
        assert error(await upload(acme, **fields), 400)["param"] == "expires_after.seconds"
        alone = {"expires_after[seconds]": "3600"}
        assert error(await upload(acme, **alone), 400)["param"] == "expires_after"

    async def test_an_expired_file_is_not_found_and_its_bytes_are_swept_away(
        self, acme: httpx.AsyncClient, database: Database, settings: Settings
    ) -> None:
        file = (await uploaded(acme))["id"]
        await expire(database, file)
        assert error(await acme.get(f"/v1/files/{file}"), 404)
        assert (await acme.get("/v1/files")).json()["data"] == []
        other = await uploaded(acme)
        assert on_disk(settings) == [other["id"]]

    async def test_an_expired_file_stays_readable_for_the_job_that_was_accepted(
        self, acme: httpx.AsyncClient, database: Database, settings: Settings, files: FileService
    ) -> None:
        file = (await uploaded(acme))["id"]
        await add_job(database, file, None, "queued")
        await expire(database, file)
        await files.clean()
        assert len(await files.examples("acme", file)) == 3
        with pytest.raises(NotFound):
            await files.examples("globex", file)


@pytest.fixture
def files(database: Database, settings: Settings, renderer: Renderer) -> FileService:
    """The service itself, as runtimes make it."""
    return FileService(
        database, settings.data_dir.resolve(), renderer, settings.max_file_bytes, Quotas()
    )


async def test_at_start_everything_without_a_row_is_removed(
    acme: httpx.AsyncClient, files: FileService, settings: Settings
) -> None:
    kept = (await uploaded(acme))["id"]
    root = settings.data_dir.resolve()
    (root / "incoming").mkdir(exist_ok=True)
    for left in (root / "incoming" / "x", root / "files" / "acme" / "file-orphan"):
        left.write_bytes(b"half")
    await files.clean()
    assert on_disk(settings) == [kept]


async def test_uploads_at_the_same_time_do_not_meet(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient
) -> None:
    tasks = [
        uploaded(client, purpose="batch", data=client.headers["authorization"].encode() * 999)
        for client in [acme, globex] * 4
    ]
    made = await asyncio.gather(*tasks)
    for client, file in zip([acme, globex] * 4, made, strict=True):
        content = await client.get(f"/v1/files/{file['id']}/content")
        assert content.content == client.headers["authorization"].encode() * 999


async def add_job(
    database: Database, training_file: str, validation_file: str | None, status: str
) -> int:
    job = JobRow(
        id=f"ftjob-{status}",
        tenant_id="acme",
        status=status,
        model="lorehouse-tiny",
        adapter="x",
        training_file=training_file,
        validation_file=validation_file,
        seed=0,
        method={},
        spec={},
        created_at=now(),
    )
    async with database.write() as session:
        session.add(job)
        await session.flush()
        return job.seq


async def set_status(database: Database, job: int, status: str) -> None:
    async with database.write() as session:
        row = await session.get(JobRow, job)
        assert row is not None
        row.status = status


async def expire(database: Database, file_id: str) -> None:
    async with database.write() as session:
        past = update(FileRow).where(FileRow.id == file_id).values(expires_at=now() - 1)
        await session.execute(past)
