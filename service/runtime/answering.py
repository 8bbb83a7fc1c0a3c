"""Answers the API's requests on a socket, in the turn of the runtimes of one data folder."""

import asyncio

from service.database.locks import FOLDER as LOCKS
from service.database.locks import FileLocks
from service.runtime.server import EngineServer
from service.serving.engine import Engine
from service.settings import Settings
from service.waiting import pass_time

GRACE_SECONDS = 8.0
"""For answers under way. Less than the supervisor's, which kills after its own."""

STANDBY_SECONDS = 0.5
"""Between two looks whether the runtime that answers has ended."""


async def answer(engine: Engine, settings: Settings, stop: asyncio.Event) -> None:
    """Serve an engine until `stop`; what is under way then has the grace to end."""
    # One runtime on a data folder answers; the others wait to take its place when it ends.
    locks = FileLocks(settings.data_dir.resolve() / LOCKS)
    while not stop.is_set():
        async with locks.alone("generation") as got:
            if got:
                await _serve(engine, settings, stop)
                return
        await pass_time(stop, STANDBY_SECONDS)


async def _serve(engine: Engine, settings: Settings, stop: asyncio.Event) -> None:
    server = EngineServer(engine, settings.generation_socket)
    await server.start()
    await stop.wait()
    # The engine itself goes on until the last job has been given back.
    await server.stop(GRACE_SECONDS)
