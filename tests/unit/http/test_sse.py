"""Event streams: sent at once, closed with the client, errors where the client can read them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
from litestar import Litestar, Response, get
from prometheus_client import CollectorRegistry

from service.errors import EngineUnavailable
from service.http.edge import Edge
from service.http.errors import exception_handlers
from service.http.metrics import RequestMetrics
from service.http.sse import DONE, data, event_stream
from service.http.tenant_labels import TenantLabels

Events = Callable[[], AsyncIterator[bytes]]


def make_app(events: Events) -> Litestar:
    @get("/", media_type="text/event-stream")
    async def stream() -> Response[Any]:
        return event_stream(events())

    app = Litestar([stream], exception_handlers=exception_handlers, logging_config=None)
    app.asgi_handler = Edge(app.asgi_handler, RequestMetrics(CollectorRegistry(), TenantLabels()))
    return app


async def ask(events: Events) -> httpx.Response:
    transport = httpx.ASGITransport(make_app(events))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get("/")


async def test_events_arrive_as_server_sent_events() -> None:
    async def events() -> AsyncIterator[bytes]:
        yield data({"n": 1})
        yield DONE

    answer = await ask(events)
    assert answer.text == 'data: {"n":1}\n\ndata: [DONE]\n\n'
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    assert "content-length" not in answer.headers


async def test_an_error_before_the_first_event_is_an_ordinary_answer() -> None:
    async def events() -> AsyncIterator[bytes]:
        raise EngineUnavailable("starting")
        yield b""

    answer = await ask(events)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "engine_unavailable"


async def test_a_later_error_is_an_event() -> None:
    async def events() -> AsyncIterator[bytes]:
        yield data({"n": 1})
        raise EngineUnavailable("died")

    answer = await ask(events)
    assert answer.status_code == 200
    assert '"code":"engine_unavailable"' in answer.text.split("\n\n")[1]


async def test_a_later_fault_of_ours_tells_nothing() -> None:
    async def events() -> AsyncIterator[bytes]:
        yield data({"n": 1})
        raise RuntimeError("the secret reason")

    answer = await ask(events)
    assert "internal_error" in answer.text
    assert "secret" not in answer.text


async def test_events_are_closed_when_the_client_goes() -> None:
    closed, sent, forever = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def events() -> AsyncIterator[bytes]:
        try:
            yield data({"n": 1})
            sent.set()
            await forever.wait()
        finally:
            closed.set()

    messages: list[Any] = []
    async with asyncio.timeout(5):
        await make_app(events)(SCOPE, hanging_up(sent), keeping(messages))  # type: ignore[arg-type]
        await closed.wait()
    assert [m["type"] for m in messages] == ["http.response.start", "http.response.body"]


async def test_a_stream_that_shutdown_cuts_says_so() -> None:
    closed, forever = asyncio.Event(), asyncio.Event()

    async def events() -> AsyncIterator[bytes]:
        try:
            yield data({"n": 1})
            await forever.wait()
        finally:
            closed.set()

    messages = await cut(make_app(events), after=2)
    assert closed.is_set()
    assert b'"code":"shutting_down"' in messages[2]["body"]
    assert messages[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_a_request_that_shutdown_cuts_gets_an_ordinary_error() -> None:
    began = asyncio.Event()

    async def events() -> AsyncIterator[bytes]:
        began.set()
        await asyncio.Event().wait()
        yield b""

    messages = await cut(make_app(events), when=began)
    assert messages[0]["status"] == 503
    assert b"retry-after" in dict(messages[0]["headers"])
    assert b'"code":"shutting_down"' in messages[1]["body"]


SCOPE = {
    "type": "http",
    "method": "GET",
    "path": "/",
    "raw_path": b"/",
    "root_path": "",
    "scheme": "http",
    "query_string": b"",
    "headers": [],
    "server": ("test", 80),
}


async def cut(
    app: Litestar, *, after: int | None = None, when: asyncio.Event | None = None
) -> list[Any]:
    """Cancel a request as uvicorn does at shutdown: `after` so many messages, or `when` it is."""
    messages: list[Any] = []
    cutting = when or asyncio.Event()
    receive, send = hanging_up(asyncio.Event()), keeping(messages, cutting, after)
    async with asyncio.timeout(5):
        task = asyncio.create_task(app(dict(SCOPE), receive, send))  # type: ignore[arg-type]
        await cutting.wait()
        task.cancel()
        await task
    return messages


def hanging_up(when: asyncio.Event) -> Any:
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await when.wait()
        return {"type": "http.disconnect"}

    return receive


def keeping(messages: list[Any], full: asyncio.Event | None = None, at: int | None = None) -> Any:
    async def send(message: Any) -> None:
        messages.append(message)
        if full is not None and len(messages) == at:
            full.set()

    return send
