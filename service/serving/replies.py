"""What the generation endpoints' HTTP answers have in common."""

from collections.abc import AsyncIterator
from typing import Any, TypeVar

from litestar import Response
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


def whole(run: Generation, content: T) -> Response[T]:
    """Answer at once."""
    return Response(content, headers=_headers(run))


def streamed(run: Generation, events: AsyncIterator[bytes]) -> Response[Any]:
    """Answer as it comes."""
    response = event_stream(events)
    response.headers.update(_headers(run))
    return response


def _headers(run: Generation) -> dict[str, str]:
    return {} if run.digest is None else {REVISION_HEADER: run.digest}
