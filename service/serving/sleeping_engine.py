"""`SleepingEngine`: an engine that may be put to sleep; nothing reaches it then."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

from msgspec.structs import replace

from adapters_store import RevisionRef
from service.errors import EngineBusy
from service.serving.engine import Engine, EngineStatus, GenerationRequest, Piece
from service.serving.merging import closing
from service.serving.waiting_room import WaitingRoom


class SleepingEngine:
    """Implements `Engine` by another one: calls wait while it is shut, and are counted while open.

    As many requests wait as `max_queue`, of one tenant as many as places are left. Whoever comes
    in does so before it is shut or after it is opened: once `idle`, it stays so until then.
    """

    def __init__(self, engine: Engine, max_queue: int) -> None:
        self._engine = engine
        self._room = WaitingRoom(max_queue, 0)
        self._open = asyncio.Event()
        self._open.set()
        self._inside = 0

    @property
    def waiting(self) -> int:
        """Requests that wait until it is opened."""
        return self._room.waiting

    def shut(self) -> None:
        """Let nobody in any more."""
        self._open.clear()

    def open(self) -> None:
        """Let everybody in."""
        self._open.set()

    async def running(self) -> int:
        """Count what the engine is still busy with: calls, and adapters that it loads by itself."""
        status = await self._engine.status()
        return self._inside + sum(place.state == "loading" for place in status.residents)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Piece]:
        """See Engine; waits while it is shut."""
        async with (
            self._within(request.tenant),
            closing(self._engine.generate(request)) as pieces,
        ):
            async for piece in pieces:
                yield piece

    async def score(
        self, revision: RevisionRef | None, prompts: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """See Engine; waits while it is shut."""
        async with self._within(""):
            return await self._engine.score(revision, prompts)

    async def prefetch(self, revision: RevisionRef) -> None:
        """See Engine. While it is shut nobody is spared a wait by it, and nothing is done."""
        if self._open.is_set():
            await self._engine.prefetch(revision)

    async def pin(self, revisions: Collection[RevisionRef]) -> None:
        """See Engine; waits while it is shut."""
        await self._until_open()
        self._inside += 1
        try:
            await self._engine.pin(revisions)
        finally:
            self._inside -= 1

    async def status(self) -> EngineStatus:
        """Report, those included who wait until it is opened."""
        status = await self._engine.status()
        return replace(status, waiting=status.waiting + self.waiting)

    async def close(self) -> None:
        """See Engine; whoever waits is let in, and told."""
        self.open()
        await self._engine.close()

    @asynccontextmanager
    async def _within(self, tenant: str) -> AsyncIterator[None]:
        if not self._open.is_set():
            await self._wait(tenant)
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    async def _wait(self, tenant: str) -> None:
        if self._room.enter(tenant, 1) is None:
            raise EngineBusy("too many requests are waiting")
        try:
            await self._until_open()
        finally:
            self._room.admit(tenant)
            self._room.leave(1)

    async def _until_open(self) -> None:
        # It may be shut again before whoever waits has its turn.
        while not self._open.is_set():
            await self._open.wait()
