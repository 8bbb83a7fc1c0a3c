"""`RemoteEngine`: the engine as the API sees it, over the runtime's socket. No torch."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from pathlib import Path

import msgspec

from adapters_store import RevisionRef
from service.errors import EngineBusy, EngineUnavailable, ServiceError
from service.runtime.inbox import Inbox
from service.runtime.messages import (
    AskStatus,
    Cancel,
    Failed,
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
    frame,
    from_runtime,
    raised,
    read_frames,
)
from service.runtime.sockets import reachable
from service.serving.engine import EngineStatus, GenerationRequest, Piece
from service.telemetry import logger

ANSWER_SECONDS = 5.0
MAX_UNSENT = 8 * 1024 * 1024
"""Bytes that a runtime may leave lying; beyond it nothing is asked of it."""

_log = logger(__name__)


class RemoteEngine:
    """Implements `Engine`. Connects at the first request, and again when the runtime came back.

    A request that arrives while there is no runtime fails at once: it is the client who knows
    whether trying again is worth it.
    """

    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path
        self._connecting = asyncio.Lock()
        self._connection: _Connection | None = None
        self._closed = False

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Piece]:
        """Yield the pieces as the runtime sends them; closing early cancels over there."""
        connection = await self._connect()
        call, inbox = connection.open()
        try:
            connection.send(Generate(call, request))
            end = None
            while end is None:
                pieces, end = await inbox.take()
                for piece in pieces:
                    yield piece
            if isinstance(end, ServiceError):
                raise end
        finally:
            connection.abandon(call)

    async def score(
        self, revision: RevisionRef | None, prompts: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Have the runtime score them; being cancelled cancels over there."""
        asked = [list(prompt) for prompt in prompts]
        message = await self._ask(lambda call: Score(call, revision, asked), None)
        if isinstance(message, Scored):
            return message.logprobs
        raise EngineUnavailable("no scores")

    async def prefetch(self, revision: RevisionRef) -> None:
        """Ask the runtime to load it."""
        await self._ask(lambda call: Prefetch(call, revision))

    async def pin(self, revisions: Collection[RevisionRef]) -> None:
        """Tell the runtime what is pinned."""
        await self._ask(lambda call: Pin(call, list(revisions)))

    async def status(self) -> EngineStatus:
        """Ask the runtime; no answer in time counts as no engine."""
        message = await self._ask(AskStatus)
        if isinstance(message, Status):
            return message.status
        raise EngineUnavailable("no status")

    async def close(self) -> None:
        """Hang up; requests under way raise EngineUnavailable."""
        self._closed = True
        if self._connection is not None:
            await self._connection.close()

    async def _ask(
        self, make: Callable[[int], ToRuntime], seconds: float | None = ANSWER_SECONDS
    ) -> FromRuntime | None:
        """Send what is answered by one message, within so many seconds."""
        connection = await self._connect()
        call, inbox = connection.open()
        try:
            connection.send(make(call))
            _, message = await asyncio.wait_for(inbox.take(), seconds)
        except TimeoutError:
            raise EngineUnavailable("the generation engine does not answer") from None
        finally:
            connection.abandon(call)
        if isinstance(message, ServiceError):
            raise message
        return message

    async def _connect(self) -> "_Connection":
        async with self._connecting:
            if self._closed:
                raise EngineUnavailable("the generation engine is closed")
            if self._connection is None or self._connection.dead:
                self._connection = await _Connection.make(self._path)
            return self._connection


class _Connection:
    """One stream, carrying any number of calls at once."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._inboxes: dict[int, Inbox] = {}
        self.dead = False
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def make(cls, path: Path) -> "_Connection":
        try:
            with reachable(path) as short:
                return cls(*await asyncio.open_unix_connection(short))
        except OSError:
            raise EngineUnavailable("the generation engine is not running yet") from None

    def open(self) -> tuple[int, Inbox]:
        call, inbox = next(self._numbers), Inbox()
        self._inboxes[call] = inbox
        if self.dead:
            inbox.put(_lost())
        return call, inbox

    def send(self, message: ToRuntime) -> None:
        """Ask for something. Raises EngineUnavailable."""
        if self._writer.transport.get_write_buffer_size() > MAX_UNSENT:
            raise EngineBusy("the generation engine does not read what it is asked")
        self._write(message)

    def _write(self, message: ToRuntime) -> None:
        try:
            self._writer.write(frame(message))
        except FrameTooLarge as fault:
            raise EngineUnavailable(f"the request is too large to send: {fault}") from None

    def abandon(self, call: int) -> None:
        """Forget a call, cancelling it unless it has ended."""
        if self._inboxes.pop(call, None) is not None and not self.dead:
            self._write(Cancel(call))

    async def close(self) -> None:
        self._writer.close()
        await self._reading

    async def _read(self) -> None:
        try:
            async for bodies in read_frames(self._reader):
                for body in bodies:
                    self._deliver(from_runtime.decode(body))
        except (FrameTooLarge, msgspec.DecodeError) as fault:
            _log.error("generation.garbled", fault=str(fault))
        finally:
            self.dead = True
            self._writer.close()
            for inbox in self._inboxes.values():
                inbox.put(_lost())

    def _deliver(self, message: FromRuntime) -> None:
        ended = not isinstance(message, Generated)
        inbox = self._inboxes.pop(message.call, None) if ended else self._inboxes.get(message.call)
        if inbox is not None:
            inbox.put(raised(message) if isinstance(message, Failed) else message)


def _lost() -> EngineUnavailable:
    return EngineUnavailable("the generation engine stopped while it answered; try again")
