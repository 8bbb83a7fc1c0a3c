"""A receiver of webhooks on loopback: notes what comes, and answers as it is told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import msgspec

OK = b"HTTP/1.1 204 No Content\r\n\r\n"


class Received(msgspec.Struct, frozen=True):
    """One request."""

    target: str
    headers: Mapping[str, str]
    body: bytes


Answer = Callable[[Received], Awaitable[bytes]]


async def accept(_: Received) -> bytes:
    return OK


def answering(status: int, *lines: str) -> Answer:
    """Answer with this status, and these header lines."""

    async def answer(_: Received) -> bytes:
        return "\r\n".join([f"HTTP/1.1 {status} X", *lines, "content-length: 0", "", ""]).encode()

    return answer


class Receiver:
    """Speaks just enough HTTP. `answer` makes the bytes that go back; it may be changed."""

    def __init__(self, answer: Answer = accept) -> None:
        self.answer = answer
        self.received: list[Received] = []
        self.port = 0
        self._news = asyncio.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?from=lorehouse"

    async def count(self, wanted: int) -> list[Received]:
        """Wait until so many requests have come."""
        async with asyncio.timeout(20), self._news:
            await self._news.wait_for(lambda: len(self.received) >= wanted)
        return self.received

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            pairs = [line.split(": ", 1) for line in head[1:] if line]
            headers = {name.lower(): value for name, value in pairs}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            got = Received(head[0].split(" ")[1], headers, body)
            async with self._news:
                self.received.append(got)
                self._news.notify_all()
            writer.write(await self.answer(got))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def receiving(answer: Answer = accept) -> AsyncIterator[Receiver]:
    """Listen on a free port."""
    receiver = Receiver(answer)
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
