"""Parts for every test: real database, real store, fake engine; nothing patched in."""

import asyncio
import logging
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
import structlog
from litestar import Litestar
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from adapters_store import AdapterStore, FilesystemAdapterStore
from service import tracing
from service.app import create_app
from service.base.description import BaseDescription, describe
from service.database import Database, migrate
from service.rendering.renderer import Renderer
from service.settings import BUNDLED_BASE, Settings
from service.tenants.allowances import Limiter
from tests import object_storage
from tests.fakes.engine import FakeEngine
from tests.postgres import Postgres

# Each process of the run has a core: threads of torch's own would wait for each other's.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ADMIN_KEY = "the-operators-own-key"
SECRET = "keys-the-hashes"
URL = "http://lorehouse.test"


def log_plainly() -> None:
    """Print no local variables with a traceback: seconds each, where they are weights or tokens."""
    structlog.reset_defaults()
    [*others, _] = structlog.get_config()["processors"]
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*others, plain])


log_plainly()
# `pytest --hypothesis-profile=long`, for tests that know what to do with an hour.
hypothesis.settings.register_profile("long")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what uses a database on both: all of `integration/` but what is marked `sqlite`."""
    if "backend" not in metafunc.fixturenames:
        return
    backends: list[Any] = ["sqlite"]
    marked = metafunc.definition.get_closest_marker("sqlite")
    if "integration" in metafunc.definition.path.parts and marked is None:
        backends.append(pytest.param("postgresql", marks=pytest.mark.postgresql))
    metafunc.parametrize("backend", backends)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to be copied."""
    path = tmp_path_factory.mktemp("database") / "empty.db"
    migrate.upgrade(f"sqlite+aiosqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of this process's own."""
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def migrated(postgres: Postgres) -> str:
    """The URL of a migrated PostgreSQL database, which tests use one after the other."""
    postgres.execute("CREATE DATABASE tests")
    migrate.upgrade(postgres.url("tests"))
    return postgres.url("tests")


@pytest.fixture
def settings(tmp_path: Path, backend: str, request: pytest.FixtureRequest) -> Settings:
    """Settings of a fresh data folder, and of an empty migrated database."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    url = ""
    if backend == "postgresql":
        url = request.getfixturevalue("migrated")
        request.getfixturevalue("postgres").empty("tests")
    else:
        shutil.copy(request.getfixturevalue("empty_database"), data_dir / "lorehouse.db")
    return Settings(data_dir=data_dir, admin_key=ADMIN_KEY, secret=SECRET, database_url=url)


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    database = Database(settings.sqlalchemy_url)
    yield database
    await database.close()


@pytest.fixture
def store(settings: Settings) -> AdapterStore:
    """The filesystem store, where the app looks for it."""
    return FilesystemAdapterStore(settings.data_dir / "adapters")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a server that speaks S3, with a bucket in it."""
    # Half a second that only these tests need.
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    httpx.put(
        f"{address}/adapters", headers={"host": "s3.us-east-1.amazonaws.com"}
    ).raise_for_status()
    yield address
    server.stop()


@pytest.fixture
def s3_url(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place in S3, while the environment says how to get there."""
    for name, value in object_storage.environment(s3_server).items():
        monkeypatch.setenv(name, value)
    return f"s3://adapters/{secrets.token_hex(8)}"


@pytest.fixture(scope="session")
def base() -> BaseDescription:
    """The bundled base, without its weights in memory."""
    return describe(str(BUNDLED_BASE))


@pytest.fixture(scope="session")
def renderer(base: BaseDescription) -> Renderer:
    return Renderer(base)


@pytest.fixture
def engine(store: AdapterStore) -> FakeEngine:
    """An engine that knows the store's revisions and makes up its answers."""
    return FakeEngine(store)


@pytest.fixture
def clock() -> Callable[[], float]:
    """What rate limits go by."""
    return time.time


@pytest.fixture
def make_app(
    settings: Settings,
    base: BaseDescription,
    engine: FakeEngine,
    store: AdapterStore,
    clock: Callable[[], float],
) -> Callable[[Database], Litestar]:
    """Makes the app of one more API process."""
    return lambda database: create_app(
        settings,
        base=base,
        engine=engine,
        store=store,
        database=database,
        limiter=Limiter(database, clock),
    )


@pytest.fixture
def app(make_app: Callable[[Database], Litestar], database: Database) -> Litestar:
    return make_app(database)


@pytest.fixture
async def client(app: Litestar) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key, in the test's own event loop, while the app's lifespan runs."""
    async with running(app), _client(app) as client:
        yield client


@pytest.fixture
async def admin(app: Litestar, client: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the admin key."""
    async with _client(app, ADMIN_KEY) as admin:
        yield admin


@pytest.fixture
async def acme(app: Litestar, admin: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the tenant `acme`, with a key that may do everything but administer."""
    async with _tenant(app, admin, "acme") as client:
        yield client


@pytest.fixture
async def globex(app: Litestar, admin: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the tenant `globex`."""
    async with _tenant(app, admin, "globex") as client:
        yield client


@pytest.fixture
async def replica(
    make_app: Callable[[Database], Litestar], settings: Settings, acme: httpx.AsyncClient
) -> AsyncIterator[httpx.AsyncClient]:
    """The client `acme` at a second API process's app, which has connections of its own."""
    database = Database(settings.sqlalchemy_url)
    async with _client(make_app(database)) as replica:
        replica.headers.update(acme.headers)
        yield replica
    await database.close()


@pytest.fixture
def limited(admin: httpx.AsyncClient, acme: httpx.AsyncClient) -> Callable[..., Awaitable[None]]:
    """Sets acme's own limits."""

    async def limit(**limits: int | None) -> None:
        answer = await admin.patch("/v1/admin/tenants/acme", json={"limits": limits})
        assert answer.status_code == 200, answer.text

    return limit


@asynccontextmanager
async def running(app: Litestar) -> AsyncIterator[None]:
    """Hold the app's lifespan in a task of its own: fixtures are left in another than entered."""
    started, stop = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        async with app.lifespan():
            started.set()
            await stop.wait()

    living = asyncio.create_task(live())
    starting = asyncio.create_task(started.wait())
    await asyncio.wait({living, starting}, return_when=asyncio.FIRST_COMPLETED)
    starting.cancel()
    try:
        yield
    finally:
        stop.set()
        await living


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """What this process traces meanwhile."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.trace_with(provider)
    yield exporter
    tracing.trace_with(None)
    provider.shutdown()


@pytest.fixture
def logging_restored() -> Iterator[None]:
    """Undo what a test, or the command line in it, configures."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    log_plainly()


def _client(app: Litestar, key: str | None = None) -> httpx.AsyncClient:
    # Not Litestar's own test client: that one runs the app in another thread's event loop, so that
    # nothing can be shared with the test and nothing can be seen to run at the same time.
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.AsyncClient(transport=transport, base_url=URL, headers=headers)


@asynccontextmanager
async def _tenant(
    app: Litestar, admin: httpx.AsyncClient, name: str
) -> AsyncIterator[httpx.AsyncClient]:
    made = await admin.post("/v1/admin/tenants", json={"id": name})
    assert made.status_code == 201, made.text
    key = await admin.post(f"/v1/admin/tenants/{name}/keys", json={"name": "tests"})
    assert key.status_code == 201, key.text
    async with _client(app, key.json()["key"]) as client:
        yield client
