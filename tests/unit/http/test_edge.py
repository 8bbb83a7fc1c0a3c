"""The outermost layer, seen from below: what it records when nobody is there any more."""

from typing import Any

from litestar import Litestar, Request, get
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from service.http.edge import Edge
from service.http.errors import exception_handlers
from service.http.metrics import RequestMetrics
from service.http.tenant_labels import TenantLabels

SCOPE = {
    "type": "http",
    "method": "GET",
    "path": "/wait",
    "raw_path": b"/wait",
    "root_path": "",
    "scheme": "http",
    "query_string": b"",
    "headers": [],
    "server": ("test", 80),
}


class HungUp(Exception):
    """What a room raises when its caller is gone."""


@get("/wait")
async def wait(request: Request[Any, Any, Any]) -> None:
    """Wait for the client to hang up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    raise HungUp


async def test_a_client_that_hung_up_is_499_and_no_fault_of_ours() -> None:
    registry = CollectorRegistry()
    app = Litestar([wait], exception_handlers=exception_handlers, logging_config=None)
    app.asgi_handler = Edge(app.asgi_handler, RequestMetrics(registry, TenantLabels()))

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        """Nobody reads it."""

    with capture_logs() as logs:
        await app(SCOPE.copy(), receive, send)  # type: ignore[arg-type]
    assert [(line["event"], line["status"]) for line in logs] == [("request.answered", 499)]
    assert b'route="/wait",status="499"} 1.0' in generate_latest(registry)
