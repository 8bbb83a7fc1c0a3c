"""Any `Engine`, served on a unix socket to any number of connections."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import cast

import msgspec

from service.errors import EngineUnavailable, ServiceError
from service.runtime.messages import (
    AskStatus,
    Cancel,
    Finished,
    FrameTooLarge,
    FromRuntime,
    Generate,
    Generated,
    Pin,
    Prefetch,
    Score,
    Scored,
    Status,
    ToRuntime,
    failure,
    frame,
    read_frames,
    to_runtime,
)
from service.runtime.sockets import reachable
from service.runtime.spans import generating
from service.serving.engine import Engine, GenerationRequest, Piece
from service.telemetry import logger

MAX_UNREAD = 8 * 1024 * 1024
"""Bytes a slow reader may leave lying; beyond it the connection is dropped."""
_FLUSH_SECONDS = 1.0

_log = logger(__name__)


class EngineServer:
    """Listens at `path`, whose folder is closed to everybody else."""

    def __init__(self, engine: Engine, path: Path, *, max_unread: int = MAX_UNREAD) -> None:
        self._engine = engine
        self._path = path
        self._max_unread = max_unread
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._talks: set[_Talk] = set()

    async def start(self) -> None:
        """Take the place of whatever socket lay there, and listen."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.parent.chmod(0o700)
        self._path.unlink(missing_ok=True)
        with reachable(self._path) as short:
            self._server = await asyncio.start_unix_server(self._serve, short)

    async def stop(self, grace_seconds: float) -> None:
        """Take no new connection or request; cancel what is not done within the grace."""
        if self._server is None:
            return
        self._server.close()
        for talk in self._talks:
            talk.closing = True
        calls = [task for talk in self._talks for task in talk.calls.values()]
        if calls:
            await asyncio.wait(calls, timeout=grace_seconds)
        await self._hang_up()
        self._path.unlink(missing_ok=True)

    async def _hang_up(self) -> None:
        for talk in self._talks:
            talk.hang_up()
        if self._connections:
            await asyncio.wait(self._connections, timeout=_FLUSH_SECONDS)
        for talk in self._talks:
            talk.hang_up(flush=False)
        await asyncio.gather(*self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        talk = _Talk(self._engine, reader, writer, self._max_unread)
        self._connections.add(task)
        self._talks.add(talk)
        try:
            await talk.run()
        finally:
            self._connections.discard(task)
            self._talks.discard(talk)


class _Talk:
    """One connection. When it drops, everything it asked for is cancelled."""

    def __init__(
        self,
        engine: Engine,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        max_unread: int,
    ) -> None:
        self.calls: dict[int, asyncio.Task[None]] = {}
        self.closing = False
        self._engine = engine
        self._reader = reader
        self._writer = writer
        self._max_unread = max_unread
        self._unsent: list[bytes] = []

    async def run(self) -> None:
        try:
            async for bodies in read_frames(self._reader):
                for body in bodies:
                    self._take(to_runtime.decode(body))
        except (FrameTooLarge, msgspec.DecodeError) as fault:
            _log.error("connection.garbled", fault=str(fault))
        finally:
            tasks = list(self.calls.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.hang_up()

    def hang_up(self, *, flush: bool = True) -> None:
        # The reader then sees the end of the stream, and `run` ends by itself.
        self._flush()
        self._writer.close() if flush else self._writer.transport.abort()

    def _take(self, message: ToRuntime) -> None:
        call = message.call
        if isinstance(message, Cancel):
            if task := self.calls.get(call):
                task.cancel()
            return
        if isinstance(message, Generate | Score) and self.closing:
            self._send(failure(call, EngineUnavailable("the generation engine is stopping")))
            return
        self.calls[call] = asyncio.create_task(self._answer(message))
        self.calls[call].add_done_callback(lambda _: self.calls.pop(call, None))

    async def _answer(self, message: Generate | Score | AskStatus | Prefetch | Pin) -> None:
        call, engine = message.call, self._engine
        try:
            match message:
                case AskStatus():
                    self._send(Status(call, await engine.status()))
                case Score():
                    scores = await engine.score(message.revision, message.prompts)
                    self._send(Scored(call, scores))
                case Prefetch():
                    await engine.prefetch(message.revision)
                    self._send(Finished(call))
                case Pin():
                    await engine.pin(message.revisions)
                    self._send(Finished(call))
                case Generate():
                    await self._generate(call, message.request)
                    self._send(Finished(call))
        except ServiceError as error:
            self._send(failure(message.call, error))
        except Exception:  # noqa: BLE001 - the boundary: no other request may suffer from it
            _log.exception("generation.failed", request=message.call)
            self._send(failure(message.call, EngineUnavailable("the generation engine failed")))

    async def _generate(self, call: int, request: GenerationRequest) -> None:
        pieces = cast("AsyncGenerator[Piece, None]", self._engine.generate(request))
        with generating(request) as stretches:
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    self._send(Generated(call, piece))
                    stretches.heard(piece)

    def _send(self, message: FromRuntime) -> None:
        # What a step of the engine says to all its requests leaves together.
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(frame(message))

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._writer.is_closing():
            return
        self._writer.write(b"".join(unsent))
        if self._writer.transport.get_write_buffer_size() > self._max_unread:
            _log.warning("connection.dropped", reason="it does not read")
            self._writer.transport.abort()
