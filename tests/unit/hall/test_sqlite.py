"""A connection that goes to its thread seldom does what one that goes there always does."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import aiosqlite
import pytest
from sqlalchemy import text

from service.database import Database, sqlite
from service.database.sqlite import AT_ONCE

COUNTING = """
WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < :most)
SELECT n FROM counted
"""


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[aiosqlite.Connection]:
    # As SQLAlchemy has it for files.
    options = {"isolation_level": None, "check_same_thread": False}
    async with sqlite.connect(str(tmp_path / "a.db"), **options) as opened:
        yield opened


@pytest.mark.parametrize("rows", [0, 1, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, 3 * AT_ONCE])
async def test_every_row_comes_once_and_in_order(database: Database, rows: int) -> None:
    counting, most = text(COUNTING + "WHERE :most > 0"), {"most": rows}
    expected = [*range(1, rows + 1)]
    async with database.read() as session:
        assert [*await session.scalars(counting, most)] == expected
        streamed = await session.stream_scalars(counting, most)
        assert [row async for row in streamed] == expected
    assert [row.n for row in await database.ask(counting, most)] == expected


async def test_a_long_result_is_drawn_piece_by_piece(connection: aiosqlite.Connection) -> None:
    async with connection.cursor() as cursor:
        await cursor.execute(COUNTING, {"most": 2 * AT_ONCE})
        seen = [*await cursor.fetchmany(3), *await cursor.fetchmany(AT_ONCE)]
        seen += await cursor.fetchall()
    assert [n for (n,) in seen] == [*range(1, 2 * AT_ONCE + 1)]


async def test_one_who_was_cancelled_while_it_waited_for_its_turn_does_not_keep_it(
    connection: aiosqlite.Connection, tmp_path: Path
) -> None:
    cursor = connection.cursor()
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None, timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(cursor.execute("BEGIN IMMEDIATE"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not connection.in_transaction
        other.execute("ROLLBACK")
        await connection.rollback()
        await connection.execute("SELECT 1")
        assert not connection.in_transaction


async def test_a_question_leaves_nothing_open(database: Database) -> None:
    count = text("SELECT count(*) AS n FROM tenants")
    [before] = await database.ask(count, {})
    async with database.write() as session:
        await session.execute(text("INSERT INTO tenants (id, created_at) VALUES ('acme', 1)"))
        [meanwhile] = await database.ask(count, {})
    [after] = await database.ask(count, {})
    assert (before.n, meanwhile.n, after.n) == (0, 0, 1)
    # It fails while anybody still reads.
    await database.scrub()
