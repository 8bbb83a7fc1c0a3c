"""What a database's own error means to whoever asked: no room, not now, or not this."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service.errors import BadRequest, DatabaseUnavailable, ServiceError, StorageFull

BUSY = "The database is busy; try again."
NO_ANSWER = "The database does not answer; try again."

# Of PostgreSQL's SQLSTATEs. Deadlocks and serialization faults pass when the request is made again.
_UNTEXT = ("22021", "22P05")
_FULL = ("53100",)
_BUSY = ("40001", "40P01", "53200", "53300", "55P03", "57014")
_AWAY = ("08", "57P", "25P03")

AWAY = (DBAPIError, OSError, DatabaseUnavailable, StorageFull)
"""What may pass: whoever works beside the requests goes on, and tries again."""
FOREIGN = (DBAPIError, PoolTimeout, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What the layers below raise: connecting, asyncpg's own errors come as they are."""


@contextmanager
def reached() -> Iterator[None]:
    """Connect in here: of a server that is not there nothing but the socket tells."""
    try:
        yield
    except OSError as fault:
        raise DatabaseUnavailable(NO_ANSWER) from fault


@contextmanager
def translated() -> Iterator[None]:
    """Tell the caller of the database's faults. Raises its ServiceErrors."""
    try:
        yield
    except FOREIGN as fault:
        if (told := translate(fault)) is not None:
            raise told from fault
        raise


def translate(fault: BaseException) -> ServiceError | None:
    """Say what the caller is to be told; None for what is our own mistake."""
    if isinstance(fault, PoolTimeout):
        return DatabaseUnavailable(BUSY)
    if isinstance(fault, DBAPIError):
        if fault.connection_invalidated:
            return DatabaseUnavailable(NO_ANSWER)
        fault = fault.orig or fault
    if sqlite := getattr(fault, "sqlite_errorname", ""):
        return _of_sqlite(sqlite)
    return _of_postgres(getattr(fault, "sqlstate", None) or "")


def _of_sqlite(name: str) -> ServiceError | None:
    match name:
        case "SQLITE_FULL":
            return StorageFull()
        case "SQLITE_BUSY":
            return DatabaseUnavailable(BUSY)
    return None


def _of_postgres(state: str) -> ServiceError | None:
    if state in _UNTEXT:
        return BadRequest("A text holds a character that cannot be kept, such as U+0000.")
    if state.startswith(_FULL):
        return StorageFull()
    if state.startswith(_BUSY):
        return DatabaseUnavailable(BUSY)
    return DatabaseUnavailable(NO_ANSWER) if state.startswith(_AWAY) else None
