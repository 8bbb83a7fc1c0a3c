"""Locks between processes, which end with whoever holds them; of files and of PostgreSQL."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from service.database.locks import FileLocks, PostgresLocks, locks
from service.errors import Unavailable
from service.settings import Settings

HOLD = """
import asyncio, sys
from service.database.locks import locks

async def main():
    async with locks(sys.argv[1]).shared("x"):
        print("held", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def url(settings: Settings) -> str:
    return settings.sqlalchemy_url


async def test_shared_ones_stand_beside_each_other_and_keep_a_lone_one_out(url: str) -> None:
    one, other = locks(url), locks(url)
    async with (
        one.shared("x"),
        other.shared("x"),
        one.alone("x") as got,
        one.alone("y") as another,
    ):
        assert (got, another) == (False, True)
    async with one.alone("x") as got:
        assert got
        async with other.alone("x") as again:
            assert not again


async def test_a_shared_one_waits_for_the_lone_one(url: str) -> None:
    one = locks(url)
    entered = asyncio.Event()

    async def enter() -> None:
        async with one.shared("x"):
            entered.set()

    async with one.alone("x") as got:
        assert got
        entering = asyncio.create_task(enter())
        # As long as a waiting one takes to look again, and no longer.
        await asyncio.wait({entering}, timeout=0.05)
        assert not entered.is_set()
    await asyncio.wait_for(entering, 10)


async def test_one_that_gives_up_waiting_holds_nothing(url: str) -> None:
    one = locks(url)
    entered = asyncio.Event()

    async def enter() -> None:
        async with one.shared("x"):
            entered.set()

    async with one.alone("x") as got:
        assert got
        entering = asyncio.create_task(enter())
        await asyncio.wait({entering}, timeout=0.05)
        entering.cancel()
        await asyncio.wait({entering})
    assert not entered.is_set()
    async with one.alone("x") as got:
        assert got


async def test_a_killed_holder_holds_nothing(url: str) -> None:
    command = (sys.executable, "-c", HOLD, url)
    holder = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert await holder.stdout.readline() == b"held\n"
        async with locks(url).alone("x") as got:
            assert not got
    finally:
        holder.kill()
        await holder.wait()

    async def freed() -> None:
        # PostgreSQL sees that a connection is broken when it next looks at it.
        while True:
            async with locks(url).alone("x") as got:
                if got:
                    return

    await asyncio.wait_for(freed(), 10)


def test_they_lie_beside_the_database(tmp_path: Path) -> None:
    found = locks(f"sqlite+aiosqlite:///{tmp_path}/lorehouse.db")
    assert isinstance(found, FileLocks)
    assert found.folder == tmp_path / "locks"


async def test_without_a_database_there_are_none(tmp_path: Path) -> None:
    found = locks(f"postgresql+asyncpg://nobody@/nothing?host={tmp_path}")
    assert isinstance(found, PostgresLocks)
    with pytest.raises(Unavailable):
        async with found.shared("x"):
            raise AssertionError("nothing is held")
