"""A job's events as server-sent events."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from service.database.models import JobEventRow
from service.http.sse import DONE, data
from service.jobs import present

HEARTBEAT = b": keep-alive\n\n"


async def encoded(batches: AsyncGenerator[Sequence[JobEventRow], None]) -> AsyncIterator[bytes]:
    """Encode the events, each with its id; `DONE` ends them.

    An empty batch is a comment, which shows an open stream and keeps a silent one open.
    """
    async with aclosing(batches):
        async for batch in batches:
            for row in batch:
                yield b"id: " + row.id.encode() + b"\n" + data(present.event(row))
            if not batch:
                yield HEARTBEAT
    yield DONE
