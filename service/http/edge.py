"""The outermost layer: request id, one access log line, and metrics for every request."""

import asyncio
import time
from typing import Any

import msgspec
from litestar.datastructures import Headers, MutableScopeHeaders
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

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
        began = time.perf_counter()
        answer = _marked(send, exchange)
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
        status = exchange.status or (CLIENT_CLOSED_REQUEST if exchange.gone else 500)
        method = str(scope.get("method", ""))
        self.metrics.observe(route, method, status, seconds)
        (log.debug if route in PROBES else log.info)(
            "request.answered",
            method=self.metrics.known_method(method),
            route=route,
            status=status,
            duration_ms=round(seconds * 1000, 1),
            tenant=exchange.tenant,
            request_id=exchange.request_id,
        )


async def turn_away(send: Send, fault: ServiceError) -> None:
    """Answer with an error where there is no app to do it."""
    content = msgspec.json.encode(body(detail_of(fault)))
    headers = {"content-type": "application/json", "content-length": str(len(content))}
    pairs = [(k.encode(), v.encode()) for k, v in {**headers, **fault.headers}.items()]
    await send({"type": "http.response.start", "status": fault.status, "headers": pairs})
    await send({"type": "http.response.body", "body": content, "more_body": False})


def _watched(receive: Receive, exchange: Exchange) -> Receive:
    async def watched() -> Any:
        message = await receive()
        if message["type"] == "http.disconnect" and exchange.status is None:
            exchange.gone = True
        return message

    return watched


def _marked(send: Send, exchange: Exchange) -> Send:
    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            exchange.status = int(message["status"])
            MutableScopeHeaders(message)["x-request-id"] = exchange.request_id
        await send(message)

    return marked
