"""Named locks between processes, shared or alone, that end with whoever holds them.

Not rows: a lock of SQLite's is one for the whole database, and nobody else could write while files
are moved. With SQLite there is one machine, and its file locks do; PostgreSQL has locks of its own.
"""

import asyncio
import fcntl
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from service.database.faults import reached, translated

FOLDER = "locks"
AGAIN_SECONDS = 0.01


class FileLocks:
    """Locks on files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @asynccontextmanager
    async def shared(self, name: str) -> AsyncIterator[None]:
        """Hold the lock beside others, once nobody holds it alone."""
        with self._file(name) as file:
            # Not waited for in a thread: a cancelled one would go on waiting.
            while True:
                if _taken(file, fcntl.LOCK_SH):
                    break
                await asyncio.sleep(AGAIN_SECONDS)
            yield

    @asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[bool]:
        """Hold the lock alone if it can be had at once; tells whether it could."""
        with self._file(name) as file:
            yield _taken(file, fcntl.LOCK_EX)

    def _file(self, name: str) -> IO[bytes]:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Never removed: who waits for the lock would then wait for another file's.
        return (self.folder / hashlib.sha256(name.encode()).hexdigest()[:32]).open("ab")


class PostgresLocks:
    """Advisory locks, each on a connection of its own: holders must not use up the pool."""

    def __init__(self, url: str) -> None:
        # No transaction, which a server may end for idling; the lock ends with its connection.
        self._engine = create_async_engine(
            url, poolclass=NullPool, isolation_level="AUTOCOMMIT", hide_parameters=True
        )

    @asynccontextmanager
    async def shared(self, name: str) -> AsyncIterator[None]:
        """Hold the lock beside others, once nobody holds it alone."""
        async with self._connected() as connection:
            await connection.execute(text("SELECT pg_advisory_lock_shared(:key)"), _key(name))
            yield

    @asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[bool]:
        """Hold the lock alone if it can be had at once; tells whether it could."""
        async with self._connected() as connection:
            yield bool(
                await connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), _key(name))
            )

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection]:
        connection = self._engine.connect()
        with translated():
            with reached():
                await connection.start()
            try:
                yield connection
            finally:
                await connection.close()


Locks = FileLocks | PostgresLocks


def locks(url: str) -> Locks:
    """Find the locks that all processes on this database share."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return PostgresLocks(url)
    return FileLocks(Path(parsed.database or "").parent / FOLDER)


def _taken(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _key(name: str) -> dict[str, int]:
    digest = hashlib.sha256(name.encode()).digest()
    return {"key": int.from_bytes(digest[:8], "big", signed=True)}
