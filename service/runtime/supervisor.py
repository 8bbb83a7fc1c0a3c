"""Keeps the runtime processes of `lorehouse serve` alive, and ends them with it."""

import asyncio
import contextlib
import os
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from service.runtime.backoff import Backoff
from service.runtime.parent import SUPERVISOR_PID
from service.telemetry import logger
from service.waiting import pass_time

ROLES = {"resident": ("resident",), "vllm": ("training", "generation")}
"""What runs beside the API, by the engine that answers."""
# Longer than the runtimes take to end in order.
GRACE_SECONDS = 15.0

OnExit = Callable[[str, str, int], Awaitable[None]]
"""Called with name, runtime id and return code (below 0: minus the signal) before the restart."""

_log = logger(__name__)


def runtime_commands(engine: str) -> dict[str, list[str]]:
    """Give the commands that `serve` supervises, by name."""
    return {role: [sys.executable, "-m", "service", "runtime", role] for role in ROLES[engine]}


class Supervisor:
    """Runs one child for each named command, in the event loop it is started in.

    A child gets `--runtime-id ID`, anew each time, and the parent's environment. One that dies
    is started again after a growing delay. Children live in sessions of their own, so that Ctrl-C
    in a terminal reaches this process alone, which then ends them in order.
    """

    def __init__(
        self,
        commands: Mapping[str, Sequence[str]],
        on_exit: OnExit,
        *,
        grace_seconds: float = GRACE_SECONDS,
        backoff: Backoff | None = None,
    ) -> None:
        self._commands = dict(commands)
        self._on_exit = on_exit
        self._grace = grace_seconds
        self._backoff = backoff or Backoff()
        self._stopping = asyncio.Event()
        self._keepers: list[asyncio.Task[None]] = []
        self._pids: dict[str, int] = {}

    @property
    def pids(self) -> dict[str, int]:
        """The children that run now."""
        return dict(self._pids)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _fault: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start every child; their deaths are dealt with from then on."""
        self._keepers = [
            asyncio.create_task(self._keep(name, command), name=f"keep {name}")
            for name, command in self._commands.items()
        ]

    async def stop(self) -> None:
        """End every child: SIGTERM, then SIGKILL to what is left of it after the grace time."""
        self._stopping.set()
        await asyncio.gather(*self._keepers)

    async def _keep(self, name: str, command: Sequence[str]) -> None:
        clock = asyncio.get_running_loop().time
        delay: float | None = None
        while not self._stopping.is_set():
            born = clock()
            await self._live(name, command, restarted=delay is not None)
            delay = self._backoff.next(delay, clock() - born)
            await pass_time(self._stopping, delay)

    async def _live(self, name: str, command: Sequence[str], *, restarted: bool) -> None:
        runtime_id = f"{name}-{secrets.token_hex(6)}"
        try:
            process = await _spawn([*command, "--runtime-id", runtime_id])
        except OSError as fault:
            _log.error("runtime.not_started", name=name, error=fault.strerror)
            return
        self._pids[name] = process.pid
        event = "runtime.restarted" if restarted else "runtime.started"
        _log.info(event, name=name, runtime_id=runtime_id, pid=process.pid)
        returncode = await self._outlive(process)
        # What a child that was killed leaves behind has a card's memory in its hands, maybe.
        _signal(-process.pid, signal.SIGKILL)
        del self._pids[name]
        await self._bury(name, runtime_id, returncode)

    async def _outlive(self, process: asyncio.subprocess.Process) -> int:
        death = asyncio.create_task(process.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({death, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not death.done():
            _signal(process.pid, signal.SIGTERM)
            await asyncio.wait({death}, timeout=self._grace)
        if not death.done():
            # The whole session: a child that hangs may have children that keep it so.
            _log.warning("runtime.killed", pid=process.pid, grace_seconds=self._grace)
            _signal(-process.pid, signal.SIGKILL)
        return await death

    async def _bury(self, name: str, runtime_id: str, returncode: int) -> None:
        if self._stopping.is_set():
            _log.info("runtime.stopped", name=name, runtime_id=runtime_id, **_cause(returncode))
        else:
            _log.error("runtime.died", name=name, runtime_id=runtime_id, **_cause(returncode))
        try:
            await self._on_exit(name, runtime_id, returncode)
        except Exception:  # noqa: BLE001  logged, and not worth the runtime
            # What could not be cleaned up (leases expire by themselves) must not stop the restart.
            _log.exception("runtime.exit_not_handled", name=name, runtime_id=runtime_id)


async def _spawn(command: Sequence[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command,
        env=os.environ | {SUPERVISOR_PID: str(os.getpid())},
        stdin=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )


def _signal(pid: int, number: signal.Signals) -> None:
    # It may have died just now; its death is on its way to us.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _cause(returncode: int) -> dict[str, int | str]:
    if returncode < 0:
        return {"signal": signal.strsignal(-returncode) or -returncode}
    return {"exit_code": returncode}
