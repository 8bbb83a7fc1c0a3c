"""aiosqlite in fewer trips: each is a message to the connection's thread and one back.

SQLAlchemy asks it for a cursor, has that execute, fetch and close, and rolls back what it only
read: six trips for one row, which take ten times as long as SQLite takes to find it.
"""

import sqlite3
from collections.abc import Iterable
from functools import partial
from typing import Any

import aiosqlite

AT_ONCE = 256
"""Rows that come with the execution; whoever draws from a long result draws the rest."""


class Connection(aiosqlite.Connection):
    """Goes to its thread to execute, and to end a transaction; for the rest only if it must."""

    may_run = False
    """Whether a statement may still be running there: whoever waited for it was cancelled."""

    def cursor(self) -> "Cursor":  # type: ignore[override]
        """Make a cursor, which needs no thread."""
        return Cursor(self, self._conn.cursor())

    async def rollback(self) -> None:
        """Undo what was begun, if it was."""
        if self.may_run or self.in_transaction:
            await super().rollback()
            self.may_run = False


class Cursor(aiosqlite.Cursor):
    """Fetches as it executes. It is for one statement, as SQLAlchemy uses cursors."""

    def __init__(self, connection: Connection, cursor: sqlite3.Cursor) -> None:
        super().__init__(connection, cursor)
        self._connection = connection
        self._first: list[Any] = []
        self._is_over = False

    async def execute(self, sql: str, parameters: Iterable[Any] | None = None) -> "Cursor":
        """Execute, and bring the first rows along."""
        self._connection.may_run = True
        # aiosqlite's own way there has no types.
        begun = self._execute(self._begin, sql, parameters or ())  # type: ignore[no-untyped-call]
        self._first = await begun
        self._connection.may_run = False
        self._is_over = len(self._first) < AT_ONCE
        return self

    async def fetchall(self) -> list[Any]:
        """Give the rows that are left."""
        first, self._first = self._first, []
        return first if self._is_over else [*first, *await super().fetchall()]

    async def fetchmany(self, size: int | None = None) -> list[Any]:
        """Give some rows, none when there are no more."""
        size = size or self.arraysize
        if self._first or self._is_over:
            given, self._first = self._first[:size], self._first[size:]
            return given
        return [*await super().fetchmany(size)]

    async def close(self) -> None:
        """Let go of the statement, which one that is over has done."""
        if not self._is_over:
            await super().close()

    def _begin(self, sql: str, parameters: Any) -> list[Any]:
        return self._cursor.execute(sql, parameters).fetchmany(AT_ONCE)


def connect(path: str, **options: Any) -> Connection:
    """Open a connection when it is awaited; `options` are those of `sqlite3`."""
    connection = Connection(partial(sqlite3.connect, path, **options), AT_ONCE)
    # As SQLAlchemy has it: a process ends although nobody closed it.
    connection._thread.daemon = True
    return connection
