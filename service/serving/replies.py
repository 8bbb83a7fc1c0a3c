"""What the generation endpoints' HTTP answers have in common."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from litestar import Request, Response
from litestar.datastructures import ResponseHeader

from service.http.sse import event_stream
from service.serving.generation import Generation

T = TypeVar("T")

EVENTS = "event_stream"
"""Handler option: the type of the events that the answer consists of when it is streamed."""
REVISION_HEADER = "x-lorehouse-revision"
RESPONSE_HEADERS = [
    ResponseHeader(
        name=REVISION_HEADER,
        description="sha256 digest of the revision that answered; absent for the base.",
        documentation_only=True,
    )
]


class ClientGone(Exception):
    """The client hung up; nobody is there to read what comes of it."""


def whole(run: Generation, content: T) -> Response[T]:
    """Answer at once."""
    return Response(content, headers=_headers(run))


def streamed(run: Generation, events: AsyncIterator[bytes]) -> Response[Any]:
    """Answer as it comes."""
    response = event_stream(events)
    response.headers.update(_headers(run))
    return response


async def unless_gone(request: Request[Any, Any, Any], work: Coroutine[Any, Any, T]) -> T:
    """Do the work, but cancel it and raise ClientGone when the client hangs up."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(request: Request[Any, Any, Any]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _headers(run: Generation) -> dict[str, str]:
    return {} if run.digest is None else {REVISION_HEADER: run.digest}
