"""The outermost layer: request id, one access log line, and metrics for every request."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import INTERNAL_SERVER_ERROR
from typing import Any

import msgspec
import structlog
from litestar.datastructures import Headers, MutableScopeHeaders
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from opentelemetry.trace import Span, SpanKind

from service import tracing
from service.errors import ServiceError, ShuttingDown
from service.http import exchange as exchanges
from service.http.errors import CLIENT_CLOSED_REQUEST, body, detail_of
from service.http.exchange import Exchange
from service.http.metrics import RequestMetrics
from service.telemetry import logger

log = logger("service.access")

UNMATCHED = "unmatched"
# Asked every few seconds by machines: at the ordinary level they would drown the rest.
PROBES = frozenset({"/health/live", "/health/ready", "/metrics"})


class Edge:
    """Wraps the whole app, router included, so that a 404 and a 405 are seen as well.

    Logs no path, query string, header or body: any of them may carry a secret.
    """

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self.app(scope, receive, send)
            return
        given = Headers.from_scope(scope).get("x-request-id")
        exchange = Exchange(request_id=exchanges.request_id(given))
        exchanges.begin(scope, exchange)
        with (
            structlog.contextvars.bound_contextvars(request_id=exchange.request_id, tenant=None),
            request_span(scope, exchange),
        ):
            await self._answer(scope, receive, send, exchange)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, exchange: Exchange) -> None:
        began = time.perf_counter()
        answer = _marked(send, scope, exchange)
        try:
            await self.app(scope, _watched(receive, exchange), answer)
        except asyncio.CancelledError:
            # The server cancels requests when its time of grace at shutdown is over.
            if exchange.status is None:
                await turn_away(answer, ShuttingDown())
        finally:
            self._record(scope, exchange, time.perf_counter() - began)

    def _record(self, scope: Scope, exchange: Exchange, seconds: float) -> None:
        route = scope.get("path_template") or UNMATCHED
        fault = CLIENT_CLOSED_REQUEST if exchange.gone else INTERNAL_SERVER_ERROR
        status = exchange.status or fault
        exchange.status = status
        method = str(scope.get("method", ""))
        self.metrics.observe(route, method, status, seconds, exchange.tenant)
        (log.debug if route in PROBES else log.info)(
            "request.answered",
            method=self.metrics.known_method(method),
            route=route,
            status=status,
            duration_ms=round(seconds * 1000, 1),
        )


@contextmanager
def request_span(scope: Scope, exchange: Exchange) -> Iterator[None]:
    """Make a span of a request, named by its route, which is known when it is answered."""
    given = Headers.from_scope(scope).get(tracing.HEADER)
    method = RequestMetrics.known_method(str(scope.get("method", "")))
    with tracing.span(method, parent=given, kind=SpanKind.SERVER) as span:
        yield
        if span.is_recording():
            _describe(span, scope, exchange, method)


def _describe(span: Span, scope: Scope, exchange: Exchange, method: str) -> None:
    route = str(scope.get("path_template") or UNMATCHED)
    status = exchange.status
    assert status is not None, "it was recorded"
    span.update_name(f"{method} {route}")
    span.set_attributes({
        "http.request.method": method,
        "http.route": route,
        "http.response.status_code": status,
        "lorehouse.request_id": exchange.request_id,
        "lorehouse.tenant": exchange.tenant or "",
    })  # fmt: skip
    if status >= INTERNAL_SERVER_ERROR:
        tracing.failed(span)


async def turn_away(send: Send, fault: ServiceError) -> None:
    """Answer with an error where there is no app to do it."""
    content = msgspec.json.encode(body(detail_of(fault)))
    headers = {"content-type": "application/json", "content-length": str(len(content))}
    pairs = [(k.encode(), v.encode()) for k, v in {**headers, **fault.sent_headers}.items()]
    await send({"type": "http.response.start", "status": fault.status, "headers": pairs})
    await send({"type": "http.response.body", "body": content, "more_body": False})


def _watched(receive: Receive, exchange: Exchange) -> Receive:
    async def watched() -> Any:
        message = await receive()
        if message["type"] == "http.disconnect" and exchange.status is None:
            exchange.gone = True
        return message

    return watched


def _marked(send: Send, scope: Scope, exchange: Exchange) -> Send:
    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            exchange.status = int(message["status"])
            headers = MutableScopeHeaders(message)
            headers["x-request-id"] = exchange.request_id
            if scope.get("method") == "OPTIONS" and "path_template" in scope:
                headers["allow"] = ", ".join(sorted(_methods(scope)))
        await send(message)

    return marked


def _methods(scope: Scope) -> set[str]:
    """Find what a path takes: Litestar's OPTIONS knows only the handler it was made with."""
    routes = [r for r in scope["litestar_app"].routes if r.path_format == scope["path_template"]]
    return {method for route in routes for method in getattr(route, "methods", ())}
