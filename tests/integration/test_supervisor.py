"""The supervisor with real children: tiny programs that live, die, hang, or lose their parent."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvloop

from service.runtime.backoff import Backoff
from service.runtime.parent import SUPERVISOR_PID
from service.runtime.supervisor import Supervisor

Run = Callable[[Coroutine[Any, Any, None]], None]
Exit = tuple[str, str, int]

# A child that says who it is, by a file named after its pid, and then waits for its end.
LIVING = """
import os, pathlib, signal, sys, time
{first}
said = pathlib.Path(sys.argv[1], f"{{os.getpid()}}.part")
said.write_text(sys.argv[-1])
said.rename(said.with_suffix(".ready"))
while True:
    time.sleep(100)
"""
POLITE = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))"
STUBBORN = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork()
"""
TIED = "from service.runtime.parent import die_with_parent; die_with_parent()"

SUPERVISE = """
import asyncio, sys, uvloop
from service.runtime.supervisor import Supervisor

async def main():
    async def on_exit(*_):
        pass
    async with Supervisor({"training": sys.argv[1:]}, on_exit):
        await asyncio.Event().wait()

uvloop.run(main())
"""


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    runner: Run = request.param
    return runner


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as logs:
        yield logs


class Exits(list[Exit]):
    """An `on_exit` that remembers."""

    async def __call__(self, name: str, runtime_id: str, returncode: int) -> None:
        self.append((name, runtime_id, returncode))


def child(folder: Path, first: str = "") -> list[str]:
    return [sys.executable, "-c", LIVING.format(first=first), str(folder)]


def exiting(code: int) -> list[str]:
    return [sys.executable, "-S", "-c", f"raise SystemExit({code})"]


def said(folder: Path) -> dict[int, str]:
    return {int(path.stem): path.read_text() for path in folder.glob("*.ready")}


def alive(pid: int) -> bool:
    """Whether it runs; a zombie of another parent does not."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def reaped(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


async def until(probe: Callable[[], Any], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not probe():  # noqa: ASYNC110  what is awaited are other processes' deeds
            await asyncio.sleep(0.005)


def test_a_killed_child_is_back_under_a_new_id(run: Run, tmp_path: Path, logs: list[Any]) -> None:
    async def scenario() -> None:
        exits = Exits()
        async with Supervisor({"training": child(tmp_path)}, exits) as supervisor:
            await until(lambda: len(said(tmp_path)) == 1)
            first = supervisor.pids["training"]
            os.kill(first, signal.SIGKILL)
            await until(lambda: supervisor.pids.get("training", first) != first)
            assert exits == [("training", said(tmp_path)[first], -signal.SIGKILL)]
            assert reaped(first)

            second = supervisor.pids["training"]
            await until(lambda: second in said(tmp_path))
        assert len(set(said(tmp_path).values())) == 2
        assert exits[1] == ("training", said(tmp_path)[second], -signal.SIGTERM)
        assert reaped(second)
        assert supervisor.pids == {}

    run(scenario())
    told = [(line["event"], line.get("signal")) for line in logs]
    assert told == [
        ("runtime.started", None),
        ("runtime.died", "Killed"),
        ("runtime.restarted", None),
        ("runtime.stopped", "Terminated"),
    ]


def test_a_child_that_dies_at_once_is_not_restarted_in_a_hurry(run: Run) -> None:
    async def scenario() -> None:
        times: list[float] = []

        async def on_exit(_: str, __: str, returncode: int) -> None:
            assert returncode == 3
            times.append(time.monotonic())

        backoff = Backoff(first=0.05, longest=0.2)
        async with Supervisor({"training": exiting(3)}, on_exit, backoff=backoff):
            await until(lambda: len(times) == 4)
        gaps = [b - a for a, b in pairwise(times)]
        assert all(gap >= least for gap, least in zip(gaps, [0.05, 0.1, 0.2], strict=False))

    run(scenario())


def test_a_failing_exit_handler_does_not_stop_the_restart(run: Run, logs: list[Any]) -> None:
    async def scenario() -> None:
        calls: list[str] = []

        async def on_exit(_: str, runtime_id: str, __: int) -> None:
            calls.append(runtime_id)
            raise ConnectionError("no database")

        backoff = Backoff(first=0.01, longest=0.01)
        async with Supervisor({"training": exiting(0)}, on_exit, backoff=backoff):
            await until(lambda: len(calls) == 3)

    run(scenario())
    assert [line["event"] for line in logs].count("runtime.exit_not_handled") >= 3


def test_a_program_that_cannot_be_started_is_tried_again_and_told(
    run: Run, logs: list[Any]
) -> None:
    async def scenario() -> None:
        exits = Exits()
        commands = {"training": ["/nowhere/python"]}
        async with Supervisor(commands, exits, backoff=Backoff(first=0.01)):
            await until(lambda: len(logs) >= 2)
        assert exits == []

    run(scenario())
    assert {line["event"] for line in logs} == {"runtime.not_started"}


def test_one_childs_death_does_not_touch_the_other(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        commands = {"training": child(tmp_path), "generation": child(tmp_path)}
        async with Supervisor(commands, Exits()) as supervisor:
            await until(lambda: len(said(tmp_path)) == 2)
            before = supervisor.pids
            os.kill(before["training"], signal.SIGKILL)
            await until(lambda: len(said(tmp_path)) == 3)
            assert supervisor.pids["generation"] == before["generation"]
            assert all(os.getsid(pid) == pid for pid in supervisor.pids.values())

    run(scenario())


def test_stop_lets_a_child_end_in_order(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        exits = Exits()
        async with Supervisor({"training": child(tmp_path, POLITE)}, exits) as supervisor:
            # It may say something before its number is known here.
            await until(lambda: said(tmp_path) and "training" in supervisor.pids)
            pid = supervisor.pids["training"]
        assert exits == [("training", said(tmp_path)[pid], 0)]
        assert reaped(pid)

    run(scenario())


def test_stop_kills_what_does_not_end_within_the_grace_with_its_children(
    run: Run, tmp_path: Path
) -> None:
    async def scenario() -> None:
        stubborn = child(tmp_path, STUBBORN)
        supervisor = Supervisor({"training": stubborn}, Exits(), grace_seconds=0.3)
        await supervisor.start()
        # The child, and the child that it forked.
        await until(lambda: len(said(tmp_path)) == 2)
        begin = time.monotonic()
        await supervisor.stop()
        assert time.monotonic() - begin >= 0.3
        await until(lambda: not any(map(alive, said(tmp_path))))

    run(scenario())


def test_stop_does_not_wait_for_a_restart_that_is_due_later(run: Run) -> None:
    async def scenario() -> None:
        exits = Exits()
        supervisor = Supervisor({"training": exiting(1)}, exits, backoff=Backoff(first=3600))
        await supervisor.start()
        await until(lambda: exits)
        async with asyncio.timeout(5):
            await supervisor.stop()
        assert len(exits) == 1

    run(scenario())


def test_children_die_with_their_parent_even_when_it_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SUPERVISE, *child(tmp_path, TIED)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as parent:
        asyncio.run(until(lambda: said(tmp_path)))
        (pid,) = said(tmp_path)
        assert alive(pid)
        parent.kill()

    asyncio.run(until(lambda: not alive(pid)))


def test_a_child_whose_parent_died_while_it_started_ends_itself(tmp_path: Path) -> None:
    # This process is its parent, and not the one it was told of.
    environment = os.environ | {SUPERVISOR_PID: "1"}
    done = subprocess.run(
        child(tmp_path, TIED), env=environment, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 1
    assert "the supervisor died" in done.stderr
    assert said(tmp_path) == {}


def test_a_runtime_started_by_hand_outlives_its_starter(tmp_path: Path) -> None:
    starter = f"import subprocess, sys; subprocess.Popen({child(tmp_path, TIED)!r})"
    subprocess.run([sys.executable, "-c", starter], check=True, timeout=60)
    asyncio.run(until(lambda: said(tmp_path)))
    (pid,) = said(tmp_path)

    assert alive(pid)
    os.kill(pid, signal.SIGKILL)
