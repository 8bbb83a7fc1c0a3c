"""Locks between processes, which end with whoever holds them."""

import asyncio
import subprocess
import sys
from pathlib import Path

from service.database.locks import FileLocks, locks

HOLD = """
import asyncio, sys
from pathlib import Path
from service.database.locks import FileLocks

async def main():
    async with FileLocks(Path(sys.argv[1])).shared("x"):
        print("held", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_shared_ones_stand_beside_each_other_and_keep_a_lone_one_out(tmp_path: Path) -> None:
    one, other = FileLocks(tmp_path / "locks"), FileLocks(tmp_path / "locks")
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


async def test_a_shared_one_waits_for_the_lone_one(tmp_path: Path) -> None:
    one = FileLocks(tmp_path / "locks")
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


async def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "locks"
    command = (sys.executable, "-c", HOLD, str(folder))
    holder = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert await holder.stdout.readline() == b"held\n"
        async with FileLocks(folder).alone("x") as got:
            assert not got
    finally:
        holder.kill()
        await holder.wait()
    async with FileLocks(folder).alone("x") as got:
        assert got


def test_they_lie_beside_the_database(tmp_path: Path) -> None:
    found = locks(f"sqlite+aiosqlite:///{tmp_path}/lorehouse.db")
    assert isinstance(found, FileLocks)
    assert found.folder == tmp_path / "locks"
