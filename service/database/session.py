"""Sessions on SQLite (WAL) or PostgreSQL: one request or one claim is one transaction."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from advanced_alchemy.config import AsyncSessionConfig, EngineConfig, SQLAlchemyAsyncConfig
from sqlalchemy import Executable, Row, event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.util import greenlet_spawn

from service.database import sqlite
from service.database.faults import BUSY, reached, translated
from service.database.locks import locks
from service.errors import DatabaseUnavailable

WRITE, ASK = "lorehouse_write", "lorehouse_ask"
BUSY_TIMEOUT_SECONDS = 30
POOL_SIZE = 10
"""Connections that a process keeps to PostgreSQL; under load it opens as many again."""
POOL_TIMEOUT_SECONDS = 10
"""Wait for a connection, new or returned."""


class Companion(Protocol):
    """Writes along in the transactions of one request, so that both stay or neither does."""

    async def write(self, session: AsyncSession) -> None:
        """Write at a transaction's end; what this raises rolls it back."""
        ...

    def committed(self) -> None:
        """Hear that the transaction stays."""
        ...

    def rolled_back(self) -> None:
        """Hear that nothing of the transaction is there."""
        ...


companions: ContextVar[tuple[Companion, ...]] = ContextVar("companions", default=())


@contextmanager
def accompanied(companion: Companion) -> Iterator[None]:
    """Let a companion write along in what is written inside."""
    token = companions.set((*companions.get(), companion))
    try:
        yield
    finally:
        companions.reset(token)


class Database:
    """The one way to a session. Keep transactions short: no I/O but the database's inside them."""

    def __init__(self, url: str) -> None:
        self.config = SQLAlchemyAsyncConfig(
            connection_string=url,
            session_config=AsyncSessionConfig(expire_on_commit=False),
            engine_config=EngineConfig(**_engine_options(url)),
        )
        self.engine = self.config.get_engine()
        self._sessions = self.config.create_session_maker()
        self._snapshots = self.engine.execution_options(**_snapshot_options(url))
        self._asking = self.engine.sync_engine.execution_options(**_asking_options(url))
        self.locks = locks(url)
        if self.engine.dialect.name == "sqlite":
            _prepare_sqlite(self.engine.sync_engine)
        else:
            _prepare_postgresql(self.engine.sync_engine)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """Open a session that sees one consistent state; nothing in it is committed.

        Raises DatabaseUnavailable when the database does not answer.
        """
        with translated():
            async with self._sessions(bind=self._snapshots) as session:  # type: ignore[call-arg]
                with reached():
                    await session.connection()
                yield session

    async def ask(self, statement: Executable, given: Mapping[str, Any]) -> Sequence[Row[Any]]:
        """Read what one statement finds, in one trip: it sees one state without a transaction.

        Raises DatabaseUnavailable when the database does not answer.
        """
        with translated(), reached():
            try:
                return await greenlet_spawn(self._ask, statement, given)
            except DBAPIError as fault:
                if not fault.connection_invalidated:
                    raise
            # The server had closed it, and may be back: a question can be asked again.
            return await greenlet_spawn(self._ask, statement, given)

    def _ask(self, statement: Executable, given: Mapping[str, Any]) -> Sequence[Row[Any]]:
        # In one greenlet: an AsyncConnection has one for each of its steps, and a task to close it.
        with self._asking.connect() as connection:
            return connection.execute(statement, given).all()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """Open a transaction that commits at the end, or rolls back on any error.

        Whoever accompanies the request writes along. Raises StorageFull when the disk has no room
        for it, and DatabaseUnavailable when other writers left it no turn or the database does not
        answer. It may then have been committed all the same: its answer can be what was lost.
        """
        along = companions.get()
        try:
            async with self.upkeep() as session:
                yield session
                for companion in along:
                    await companion.write(session)
        except BaseException:
            for companion in along:
                companion.rolled_back()
            raise
        for companion in along:
            companion.committed()

    @asynccontextmanager
    async def upkeep(self) -> AsyncIterator[AsyncSession]:
        """Open a transaction as `write` does, for what is not the request's own work."""
        with translated():
            async with self._sessions() as session, session.begin():
                with reached():
                    await session.connection(execution_options={WRITE: True})
                yield session

    async def scrub(self) -> None:
        """Leave nothing in SQLite's files of the rows that were deleted.

        Writers wait meanwhile. PostgreSQL's own vacuum does so in its time. Raises
        DatabaseUnavailable when a reader kept the old pages.
        """
        url = self.engine.url
        if url.get_backend_name() == "sqlite":
            await asyncio.to_thread(_scrub, url.database or "")

    async def close(self) -> None:
        """Return every connection."""
        await self.engine.dispose()


def _scrub(path: str) -> None:
    connecting = sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)
    with closing(connecting) as connection:
        connection.execute("VACUUM")
        # The log still has the pages as they were.
        [busy, *_] = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise DatabaseUnavailable(BUSY)


def _engine_options(url: str) -> dict[str, Any]:
    # Parameters in an error's text would reach the logs.
    if url.startswith("sqlite"):
        return {"connect_args": {"timeout": BUSY_TIMEOUT_SECONDS}, "hide_parameters": True}
    milliseconds = str(BUSY_TIMEOUT_SECONDS * 1000)
    # A process that hangs must not keep others from the rows that it has locked.
    limits = {
        "statement_timeout": milliseconds,
        "idle_in_transaction_session_timeout": milliseconds,
    }
    return {
        "pool_size": POOL_SIZE,
        "max_overflow": POOL_SIZE,
        "pool_timeout": POOL_TIMEOUT_SECONDS,
        "hide_parameters": True,
        "connect_args": {
            "timeout": POOL_TIMEOUT_SECONDS,
            "server_settings": {"application_name": "lorehouse", "jit": "off", **limits},
        },
    }


def _snapshot_options(url: str) -> dict[str, Any]:
    # A transaction of SQLite's sees one state by itself; one of PostgreSQL's where it is told to.
    if url.startswith("sqlite"):
        return {}
    return {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


def _asking_options(url: str) -> dict[str, Any]:
    return {ASK: True} if url.startswith("sqlite") else {"isolation_level": "AUTOCOMMIT"}


def _prepare_postgresql(engine: Any) -> None:
    @event.listens_for(engine, "checkout")
    def checkout(connection: Any, _record: Any, _proxy: Any) -> None:
        # Instead of a ping, which takes three round trips: a server that ends closes its sockets.
        if connection.driver_connection.is_closed():
            raise DisconnectionError


def _prepare_sqlite(engine: Any) -> None:
    @event.listens_for(engine, "do_connect")
    def choose(_dialect: Any, _record: Any, _given: Any, options: dict[str, Any]) -> None:
        options["async_creator_fn"] = sqlite.connect

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        # The driver must not open transactions by itself: it opens them too late and as readers.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A reader that turns writer fails at once when another wrote meanwhile, whatever the busy
        # timeout: writers therefore say so at the start, and wait for their turn there.
        options = connection.get_execution_options()
        if not options.get(ASK):
            begin = "BEGIN IMMEDIATE" if options.get(WRITE) else "BEGIN"
            connection.exec_driver_sql(begin)
