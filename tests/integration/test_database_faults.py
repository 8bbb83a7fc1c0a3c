"""What passes with time is a 503 that says so, on both databases; never a 500."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from adapters_store import AdapterStore
from service.app import create_app
from service.base.description import BaseDescription
from service.database import Database, session
from service.database.models import TenantRow
from service.errors import BadRequest, DatabaseUnavailable, Unavailable
from service.settings import Settings
from tests.conftest import ADMIN_KEY, _client, _tenant, running
from tests.fakes.engine import FakeEngine
from tests.postgres import Postgres

ROW = json.dumps({"prompt": "a", "completion": "b"}).encode() + b"\n"


@pytest.fixture
def on_postgresql(backend: str) -> None:
    if backend != "postgresql":
        pytest.skip("SQLite has no server")


async def test_a_read_sees_one_state_whatever_is_written_meanwhile(database: Database) -> None:
    count = text("SELECT count(*) FROM tenants")
    async with database.read() as reading:
        assert await reading.scalar(count) == 0
        async with database.write() as writing:
            writing.add(TenantRow(id="acme", created_at=1))
        assert await reading.scalar(count) == 0
    async with database.read() as reading:
        assert await reading.scalar(count) == 1


async def test_a_cut_connection_is_503_and_the_next_request_gets_another(
    acme: httpx.AsyncClient, database: Database, on_postgresql: None
) -> None:
    cut = text("SELECT pg_terminate_backend(pg_backend_pid())")

    async def lose() -> None:
        async with database.write() as writing:
            writing.add(TenantRow(id="lost", created_at=1))
            await writing.flush()
            await writing.execute(cut)

    with pytest.raises(Unavailable):
        await lose()
    with pytest.raises(Unavailable):
        async with database.read() as reading:
            await reading.execute(cut)
    assert (await acme.get("/v1/files")).status_code == 200
    async with database.read() as reading:
        assert await reading.get(TenantRow, "lost") is None


async def test_who_asks_does_not_notice_that_the_server_cut_the_connection(
    database: Database, on_postgresql: None
) -> None:
    backend = text("SELECT pg_backend_pid()")
    async with database.read() as reading:
        [[pid]] = await database.ask(backend, {})
        await reading.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        [[another]] = await database.ask(backend, {})
    assert another != pid


async def test_a_statement_that_takes_too_long_is_503(
    database: Database, on_postgresql: None
) -> None:
    async def tarry() -> None:
        async with database.write() as writing:
            await writing.execute(text("SET LOCAL statement_timeout = 10"))
            await writing.execute(text("SELECT pg_sleep(5)"))

    with pytest.raises(Unavailable):
        await tarry()


async def test_of_two_that_wait_for_each_other_one_is_told_to_try_again(
    database: Database, on_postgresql: None
) -> None:
    async with database.write() as writing:
        writing.add_all(TenantRow(id=name, created_at=1) for name in "ab")

    async def change(first: str, then: str, mine: asyncio.Event, theirs: asyncio.Event) -> None:
        async with database.write() as writing:
            await writing.execute(text("SET LOCAL deadlock_timeout = 10"))
            for name in (first, then):
                touch = text("UPDATE tenants SET created_at = 2 WHERE id = :name")
                await writing.execute(touch, {"name": name})
                mine.set()
                await theirs.wait()

    one, other = asyncio.Event(), asyncio.Event()
    ends = await asyncio.gather(
        change("a", "b", one, other), change("b", "a", other, one), return_exceptions=True
    )
    (told,) = [end for end in ends if end is not None]
    assert isinstance(told, Unavailable)


async def test_when_every_connection_is_taken_it_is_busy(
    settings: Settings, on_postgresql: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "POOL_SIZE", 1)
    monkeypatch.setattr(session, "POOL_TIMEOUT_SECONDS", 0.5)
    database = Database(settings.sqlalchemy_url)
    async with database.read(), database.read():
        with pytest.raises(Unavailable, match="busy"):
            async with database.read():
                raise AssertionError("there was another connection")
    await database.close()


async def test_a_text_that_cannot_be_kept_is_the_callers_fault(
    database: Database, on_postgresql: None
) -> None:
    with pytest.raises(BadRequest):
        async with database.write() as writing:
            writing.add(TenantRow(id="a\0b", created_at=1))


@pytest.mark.postgresql
def test_a_server_that_is_away_is_503_and_found_again_when_it_is_back(postgres: Postgres) -> None:
    async def look(database: Database) -> int:
        async with database.read() as reading:
            return int(await reading.scalar(text("SELECT 1")) or 0)

    async def all_of_it(server: Postgres) -> None:
        database = Database(server.url("postgres"))
        assert await look(database) == 1
        server.stop()
        try:
            for _ in range(2):
                with pytest.raises(Unavailable):
                    await look(database)
        finally:
            server.start()
        assert await look(database) == 1
        await database.close()

    asyncio.run(all_of_it(postgres))


class AnswerLost(Database):
    """A real one whose answer to a commit gets lost, on demand."""

    lost = False

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        async with super().write() as session:
            yield session
        if self.lost:
            raise DatabaseUnavailable("The database does not answer; try again.")


async def test_a_file_whose_row_may_be_there_keeps_its_bytes(
    settings: Settings, base: BaseDescription, engine: FakeEngine, store: AdapterStore
) -> None:
    database = AnswerLost(settings.sqlalchemy_url)
    app = create_app(settings, base=base, engine=engine, store=store, database=database)
    async with running(app), _client(app, ADMIN_KEY) as admin, _tenant(app, admin, "acme") as acme:
        database.lost = True
        form = {"files": {"file": ("a.jsonl", ROW)}, "data": {"purpose": "fine-tune"}}
        assert (await acme.post("/v1/files", **form)).status_code == 503
        database.lost = False
        (file,) = (await acme.get("/v1/files")).json()["data"]
        assert (await acme.get(f"/v1/files/{file['id']}/content")).content == ROW
    await database.close()
