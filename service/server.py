"""The API process: uvicorn, and the runtimes' supervisor beside it."""

import asyncio
import contextlib
import resource
import signal
import socket
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING

import uvicorn
import uvloop

from service import __version__
from service.data_folder import Hold, held
from service.heap import settle
from service.lobby import Lobby
from service.settings import Settings, SettingsError
from service.tracing import configure_tracing, end_tracing

if TYPE_CHECKING:
    from litestar import Litestar

# Streams may have no end; and a container's own patience (10 s) must last for the runtimes too.
GRACE_SECONDS = 5
CUT_SECONDS = 1
"""For what is cut after it: one who does not read what his stream ends with holds nobody up."""
BACKLOG = 2048
# Longer than clients keep idle ones (httpx: 5 s): no request meets one that is being closed.
KEEP_ALIVE_SECONDS = 75


def serve(settings: Settings, *, supervised: bool, tell: Callable[[str], None]) -> None:
    """Run the API until a signal ends it, with the runtimes beside it when `supervised`.

    `tell` gets one line once it serves: where, on which data, and where its admin key is.
    Raises SettingsError when the settings name something unusable.
    """
    configure_tracing("api")
    _allow_many_streams()
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    holding = held(settings.data_dir.resolve(), shared=not settings.on_sqlite)
    with holding as hold, _listen(settings) as listener, runner:
        try:
            runner.run(_run(settings, hold, supervised, listener, tell))
        finally:
            end_tracing()


async def _run(
    settings: Settings,
    hold: Hold,
    supervised: bool,
    listener: socket.socket,
    tell: Callable[[str], None],
) -> None:
    lobby, greeting = Lobby(), _greeting(settings, listener)
    server = Server(_config(lobby))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        # In a thread: the imports alone take a second, and liveness must not wait for them.
        app = await asyncio.to_thread(_make_app, settings, hold.alone)
        if not serving.done():
            async with app.lifespan(), _runtimes(settings, supervised):
                if not settings.on_sqlite:
                    hold.share()
                settle()
                lobby.admit(app)
                tell(greeting)
                await serving
    except BaseException:
        # Whoever waits in the lobby waits in vain.
        server.should_exit = server.force_exit = True
        raise
    finally:
        await serving


def _config(app: Lobby) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        access_log=False,
        lifespan="off",
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )


def _make_app(settings: Settings, alone: bool) -> "Litestar":
    from service.app import create_app
    from service.base.description import BaseModelError

    _migrate(settings)
    try:
        return create_app(settings, alone=alone)
    except BaseModelError as fault:
        raise SettingsError(f"LOREHOUSE_BASE_MODEL: {fault}") from None


def _migrate(settings: Settings) -> None:
    from sqlalchemy import make_url
    from sqlalchemy.exc import SQLAlchemyError

    from service.database import migrate

    try:
        if (url := make_url(settings.sqlalchemy_url)).get_backend_name() == "sqlite":
            # First without aiosqlite, whose thread prints a traceback when it cannot.
            sqlite3.connect(url.database or "").close()
        migrate.upgrade(settings.sqlalchemy_url)
    except (SQLAlchemyError, sqlite3.Error, ImportError) as fault:
        # Of a database's own fault only the driver's message: the whole would show the statement.
        reason = getattr(fault, "orig", None) or fault
        raise SettingsError(f"LOREHOUSE_DATABASE_URL: cannot use the database: {reason}") from fault


@contextlib.asynccontextmanager
async def _runtimes(settings: Settings, supervised: bool) -> AsyncIterator[None]:
    """Keep the runtimes alive; the work of one that died is free for the next at once."""
    if not supervised:
        yield
        return
    from service.adapters.merges_repository import MergeRepository
    from service.database import Database
    from service.jobs.repository import JobRepository
    from service.runtime.supervisor import Supervisor, runtime_commands

    database = Database(settings.sqlalchemy_url)

    async def release(_: str, runtime_id: str, __: int) -> None:
        async with database.write() as session:
            await JobRepository(session).release_owner(runtime_id)
            await MergeRepository(session).release_owner(runtime_id)

    try:
        async with Supervisor(runtime_commands(settings.engine), release):
            yield
    finally:
        await database.close()


class Server(uvicorn.Server):
    """Ends on a signal like any other program: in order, and with exit code 0."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for what is cut as well: it rolls back and gives back, while there is a database."""
        await super().shutdown(sockets)
        if self.server_state.tasks and not self.force_exit:
            await asyncio.wait(self.server_state.tasks, timeout=CUT_SECONDS)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's own raises the signal again afterwards, which would kill this process before
        # the supervisor has ended its children.
        loop = asyncio.get_running_loop()
        for ending in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(ending, self.handle_exit, ending, None)
        yield


def _allow_many_streams() -> None:
    """Raise the soft limit of open files, which is often 1024: each listener is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as fault:
        where = f"LOREHOUSE_HOST={settings.host} LOREHOUSE_PORT={settings.port}"
        raise SettingsError(f"cannot listen on {where}: {fault.strerror}") from None


def _greeting(settings: Settings, listener: socket.socket) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    root = settings.data_dir.resolve()
    key = "from LOREHOUSE_ADMIN_KEY" if settings.admin_key else f"in {root / 'admin_key'}"
    return (
        f"Lorehouse {__version__} on http://{host}:{listener.getsockname()[1]}"
        f" - data in {root} - admin key {key}"
    )
