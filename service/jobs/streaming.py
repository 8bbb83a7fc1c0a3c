"""A job's events as server-sent events."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from service.database.models import JobEventRow
from service.http.sse import DONE, data
from service.jobs import present

HEARTBEAT_SECONDS = 15.0
HEARTBEAT = b": keep-alive\n\n"


async def encoded(
    batches: AsyncGenerator[Sequence[JobEventRow], None], heartbeat: float = HEARTBEAT_SECONDS
) -> AsyncIterator[bytes]:
    """Encode the events, each with its id; comments keep a silent connection open, `DONE` ends it.

    The first piece comes at once, so that the client sees an open stream before there is news.
    """
    last: float | None = None
    async with aclosing(batches):
        async for batch in batches:
            for row in batch:
                yield b"id: " + row.id.encode() + b"\n" + data(present.event(row))
            silent = last is None or time.monotonic() - last >= heartbeat
            if not batch and silent:
                yield HEARTBEAT
            if batch or silent:
                last = time.monotonic()
    yield DONE
