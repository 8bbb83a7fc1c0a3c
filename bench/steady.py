"""An engine that gives every request a token each `STEP` seconds, and costs next to nothing.

`python -m bench.steady runtime` serves it where the API looks for its runtime; `python -m
bench.steady api` is the API with it in the same process. Settings are the service's. A token's text
is the time at which it was made, so that its receiver knows how long it took.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Collection
from typing import Any

import uvicorn
import uvloop

from adapters_store import RevisionRef
from service.app import create_app
from service.database import migrate
from service.errors import EngineUnavailable
from service.heap import settle
from service.runtime.server import EngineServer
from service.serving.calls import Call
from service.serving.engine import EngineStatus, GenerationRequest, Piece
from service.serving.load_times import LoadTimes
from service.settings import Settings, from_environment

STEP = 512 / 10_000
"""512 streams are 10,000 tokens a second."""


class SteadyEngine:
    """Implements `Engine`; it knows every adapter and holds none."""

    def __init__(self) -> None:
        self._running: dict[Call, tuple[int, int]] = {}
        """Tokens made, and wanted."""
        self._made = 0

    async def run(self) -> None:
        """Make tokens for ever; after a step that came late the next one follows at once."""
        due = time.monotonic()
        while True:
            due += STEP
            await asyncio.sleep(max(0, due - time.monotonic()))
            self._step()

    def _step(self) -> None:
        text = f"t{time.monotonic_ns() // 1000} "
        self._made += len(self._running)
        for call, (before, most) in list(self._running.items()):
            made = before + 1
            reason = "length" if made == most else None
            call.put(Piece(index=0, text=text, tokens=made, finish_reason=reason))
            if reason is None:
                self._running[call] = (made, most)
            else:
                del self._running[call]
                call.put(None)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Piece]:
        """Yield a piece a step."""
        call = Call(request)
        self._running[call] = (0, request.sampling.max_tokens)
        try:
            async for piece in call.answers():
                assert isinstance(piece, Piece)
                yield piece
        finally:
            self._running.pop(call, None)

    async def score(self, *_: Any, **__: Any) -> list[list[float]]:
        """Raise EngineUnavailable: there is no model."""
        raise EngineUnavailable("This engine has no model to score prompts with.")

    async def prefetch(self, revision: RevisionRef) -> None:
        """Nothing needs to be loaded."""

    async def pin(self, revisions: Collection[RevisionRef]) -> None:
        """Nothing is ever evicted."""

    async def status(self) -> EngineStatus:
        """Count what was made."""
        return EngineStatus(
            ready=True,
            running=len(self._running),
            waiting=0,
            residents=[],
            generated_tokens=self._made,
            adapter_loads=0,
            adapter_evictions=0,
            adapter_hits=0,
            adapter_misses=0,
            adapter_load_failures=0,
            adapter_load_times=LoadTimes(),
        )

    async def close(self) -> None:
        """Nothing is held."""


async def runtime(settings: Settings) -> None:
    """Be the runtime of an API."""
    engine = SteadyEngine()
    server = EngineServer(engine, settings.generation_socket)
    await server.start()
    settle()
    try:
        await engine.run()
    finally:
        await server.stop(0)


async def api(settings: Settings) -> None:
    """Be the API, with the engine inside."""
    engine = SteadyEngine()
    app = create_app(settings, engine=engine)
    config = uvicorn.Config(
        app,
        port=settings.port,
        access_log=False,
        lifespan="off",
        log_config=None,
        server_header=False,
    )
    async with app.lifespan():
        settle()
        making = asyncio.create_task(engine.run())
        await uvicorn.Server(config).serve()
        making.cancel()


if __name__ == "__main__":
    given, _ = from_environment()
    if sys.argv[1] == "api":
        given.data_dir.mkdir(parents=True, exist_ok=True)
        migrate.upgrade(given.sqlalchemy_url)
        uvloop.run(api(given))
    else:
        uvloop.run(runtime(given))
