"""Server-sent events: sent as they are made, closed when the client goes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import msgspec
from litestar import Response
from litestar.response.base import ASGIResponse
from litestar.types import HTTPResponseBodyEvent, Receive, Scope, Send

from service.errors import ServiceError, ShuttingDown
from service.http.errors import INTERNAL, body, detail_of
from service.http.exchange import current
from service.telemetry import logger

log = logger(__name__)

DONE = b"data: [DONE]\n\n"
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def data(obj: Any) -> bytes:
    """Encode one event."""
    return b"data: " + msgspec.json.encode(obj) + b"\n\n"


def event_stream(events: AsyncIterator[bytes]) -> Response[Any]:
    """Answer with encoded events, each sent at once.

    The answer begins with the first event: an error raised before it is an ordinary error answer
    with its status. A later one becomes an event that carries the error body, and ends the
    stream. `events` is closed in every case, at once when the client goes.
    """
    return _EventStream(events)


class _EventStream(Response[Any]):
    def __init__(self, events: AsyncIterator[bytes]) -> None:
        super().__init__(None, media_type="text/event-stream", headers=dict(HEADERS))
        self.events = events

    def to_asgi_response(self, *_: Any, **options: Any) -> ASGIResponse:
        return _ASGIEventStream(
            self.events,
            headers={**(options.get("headers") or {}), **self.headers},
            media_type="text/event-stream",
            status_code=options.get("status_code"),
        )


class _ASGIEventStream(ASGIResponse):
    _should_set_content_length = False

    def __init__(self, events: AsyncIterator[bytes], **options: Any) -> None:
        super().__init__(**options)
        self.events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send_events(send))
        leaving = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        except asyncio.CancelledError:
            # Nobody shall take a part of the answer for the whole.
            await _cancel(sending, leaving)
            if current(scope).status is None:
                raise
            why = current(scope).cut or ShuttingDown()
            await send(_chunk(data(body(detail_of(why)))))
            await send(_chunk(b"", more=False))
        finally:
            await _cancel(sending, leaving)
            await _close(self.events)

    async def _send_events(self, send: Send) -> None:
        first = await anext(self.events, None)
        await self.start_response(send)
        if first is not None:
            await send(_chunk(first))
            await self._send_rest(send)
        await send(_chunk(b"", more=False))

    async def _send_rest(self, send: Send) -> None:
        try:
            async for event in self.events:
                await send(_chunk(event))
        except ServiceError as fault:
            await send(_chunk(data(body(detail_of(fault), fault.extra))))
        except Exception as fault:
            log.error("stream.failed", exc_info=fault)
            await send(_chunk(data(body(INTERNAL))))


def _chunk(content: bytes, more: bool = True) -> HTTPResponseBodyEvent:
    return {"type": "http.response.body", "body": content, "more_body": more}


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _close(events: AsyncIterator[bytes]) -> None:
    # Only generators can be closed; other iterators hold nothing open.
    if close := getattr(events, "aclose", None):
        with suppress(ServiceError):
            await close()
