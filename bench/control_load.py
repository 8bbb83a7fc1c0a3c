"""Load for an API: many silent listeners, and requests at a steady rate; on bare sockets, cheaply.

Requests are sent at their time whatever became of those before, and are timed from it: a server
that falls behind cannot slow the load down. A connection answers one at a time; more are opened as
needed.
"""

import asyncio
import random
import re
import time
from collections import deque
from collections.abc import Sequence
from itertools import count

import msgspec

BEAT = b": keep-alive"
NEWS, DONE = b"id: ", b"data: [DONE]"
_HEAD = re.compile(rb"HTTP/1\.1 (\d+).*?\r\n\r\n", re.DOTALL)
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


class Call(msgspec.Struct, frozen=True):
    """One kind of request, and how often it is among the others."""

    method: str
    path: str
    share: int
    body: bytes = b""


class Measured(msgspec.Struct):
    """What came of it: seconds, and faults in words."""

    latencies: list[float] = []
    """Of requests, from when they were due."""
    lateness: list[float] = []
    """Of heartbeats, against the one before and the period."""
    news: list[float] = []
    """From a cancellation's answer to the event that tells of it."""
    faults: list[str] = []


class Load:
    """Runs on one event loop, beside the server's process."""

    def __init__(self, port: int, key: str, period: float) -> None:
        self.port = port
        self.key = key
        self.period = period
        self.measured = Measured()
        self.idle: deque[Connection] = deque()

    async def listen(self, paths: Sequence[str], seconds: float) -> list["Listener"]:
        """Open a stream for each path, spread over `seconds`; return when all are open."""
        listeners = []
        began, each = time.perf_counter(), seconds / len(paths)
        for number, path in enumerate(paths):
            await _until(began + number * each)
            listener = Listener(self)
            await self._connect(listener)
            listener.ask(Call("GET", path, 1))
            listeners.append(listener)
        async with asyncio.timeout(60):
            await asyncio.gather(*(one.open.wait() for one in listeners))
        return listeners

    async def ask(self, calls: Sequence[Call], rate: float, seconds: float) -> None:
        """Send calls at `rate` for `seconds`, drawn by their shares, and wait for the last."""
        drawn = random.Random(7).choices(  # noqa: S311 - the same ones for both sides
            calls, [call.share for call in calls], k=int(rate * seconds)
        )
        began, tasks = time.perf_counter(), set[asyncio.Task[bytes]]()
        for number, call in zip(count(), drawn, strict=False):
            due = began + number / rate
            await _until(due)
            task = asyncio.create_task(self.answer(call, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        async with asyncio.timeout(60):
            await asyncio.gather(*tasks)

    async def cancel(self, path: str, listener: "Listener") -> None:
        """Cancel the job that one listener follows, and time how long it takes to hear of it."""
        listener.news.clear()
        await self.answer(Call("POST", path, 1), time.perf_counter())
        answered = time.perf_counter()
        try:
            async with asyncio.timeout(30):
                await listener.news.wait()
        except TimeoutError:
            self.measured.faults.append("an end was not told")
            return
        self.measured.news.append(max(0.0, listener.last - answered))

    async def answer(self, call: Call, due: float) -> bytes:
        """Send a call and wait for its answer."""
        connection = self.idle.pop() if self.idle else Connection(self)
        if connection.transport is None:
            await self._connect(connection)
        status, body = await connection.exchange(call)
        self.measured.latencies.append(time.perf_counter() - due)
        if status // 100 != 2:
            self.measured.faults.append(f"{call.method} {call.path}: {status}")
        if connection.transport is not None:
            self.idle.append(connection)
        return body

    async def _connect(self, protocol: "Connection | Listener") -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: protocol, "127.0.0.1", self.port)


class _Speaks(asyncio.Protocol):
    def __init__(self, load: Load) -> None:
        self.load = load
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def ask(self, call: Call) -> None:
        assert self.transport is not None
        head = (
            f"{call.method} {call.path} HTTP/1.1\r\nhost: bench\r\n"
            f"authorization: Bearer {self.load.key}\r\ncontent-length: {len(call.body)}\r\n"
            "content-type: application/json\r\n\r\n"
        )
        self.transport.write(head.encode() + call.body)


class Connection(_Speaks):
    """Asks, and is answered, one call at a time."""

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self._got = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    async def exchange(self, call: Call) -> tuple[int, bytes]:
        self._answer = asyncio.get_running_loop().create_future()
        self.ask(call)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._got += data
        if self._answer is None or (head := _HEAD.match(self._got)) is None:
            return
        length = _LENGTH.search(head[0])
        whole = head.end() + (int(length[1]) if length else 0)
        if len(self._got) >= whole:
            self._answer.set_result((int(head[1]), self._got[head.end() : whole]))
            self._got, self._answer = self._got[whole:], None

    def connection_lost(self, _: Exception | None) -> None:
        self.transport = None
        if self in self.load.idle:
            self.load.idle.remove(self)
        if self._answer is not None:
            self._answer.set_result((0, b""))


class Listener(_Speaks):
    """Follows a job and notes when heartbeats come."""

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self.open = asyncio.Event()
        self.news = asyncio.Event()
        self.last = 0.0
        self._beats = 0
        self._over = False

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if not self.open.is_set():
            if not data.startswith(b"HTTP/1.1 200"):
                self.load.measured.faults.append(f"a stream began with {data[:40]!r}")
            self.open.set()
        elif BEAT in data:
            self._beats += 1
            # The first comes after a random time; the second is a period after it.
            if self._beats > 1:
                self.load.measured.lateness.append(now - self.last - self.load.period)
        if NEWS in data:
            self.news.set()
        self._over = self._over or DONE in data
        self.last = now

    def close(self) -> None:
        self._over = True
        if self.transport is not None:
            self.transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        self.open.set()
        if not self._over:
            self.load.measured.faults.append("a stream was cut")


async def _until(due: float) -> None:
    if (wait := due - time.perf_counter()) > 0:
        await asyncio.sleep(wait)
