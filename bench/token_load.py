"""Chat streams whose tokens tell when they were made, read on bare sockets, cheaply."""

import asyncio
import re
import time
from random import Random
from typing import Any, cast

import msgspec

# A chunk holds several where the server has fallen behind.
_MADE = re.compile(rb'(?<=[ "])t(\d+)(?= )')
_DONE = b"data: [DONE]"


class Heard(msgspec.Struct):
    """What came."""

    latencies: list[int] = []
    """From when a token was made until it was read here; microseconds."""
    ended: int = 0
    """Answers that came to their end."""


class Streams:
    """So many at a time: where one ends, the next begins on the same connection."""

    def __init__(self, port: int, key: str, body: dict[str, Any], tokens: int) -> None:
        self.heard = Heard()
        self.fault: str | None = None
        self._port, self._key, self._body = port, key, body
        self._tokens, self._random = tokens, Random(7)  # noqa: S311 - the same for both sides
        self._open: list[_Stream] = []

    async def open(self, count: int) -> None:
        """Begin `count` streams, each answer of half to one and a half times the usual tokens."""
        loop = asyncio.get_running_loop()
        for _ in range(count):
            _, stream = await loop.create_connection(lambda: _Stream(self), "127.0.0.1", self._port)
            self._open.append(stream)

    async def listen(self, seconds: float) -> Heard:
        """Give what comes in the next `seconds`. Raises RuntimeError when a stream was refused."""
        self.heard = Heard()
        await asyncio.sleep(seconds)
        if self.fault:
            raise RuntimeError(self.fault)
        return self.heard

    def close(self) -> None:
        """Hang up."""
        for stream in self._open:
            stream.transport.close()

    def request(self) -> bytes:
        """Make one stream's request."""
        most = self._random.randint(self._tokens // 2, self._tokens * 3 // 2)
        content = msgspec.json.encode({**self._body, "max_tokens": most, "stream": True})
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\n"
            f"authorization: Bearer {self._key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content


class _Stream(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._streams.request())

    def data_received(self, data: bytes) -> None:
        now, heard = time.monotonic_ns() // 1000, self._streams.heard
        if data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 200"):
            self._streams.fault = data.decode()
        # An event may come in two parts.
        whole, _, self._rest = (self._rest + data).rpartition(b"\n\n")
        heard.latencies += [now - int(made) for made in _MADE.findall(whole)]
        if _DONE in whole:
            heard.ended += 1
            self.transport.write(self._streams.request())
