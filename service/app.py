"""The API's composition root: the one place where its concrete parts are picked."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar
from litestar.di import Provide
from litestar.middleware import DefineMiddleware
from prometheus_client import CollectorRegistry

from service.database import Database
from service.http.edge import Edge
from service.http.errors import exception_handlers
from service.http.metrics import RequestMetrics
from service.secrets import load_or_make
from service.settings import Settings
from service.tenants.auth import Authentication, provide_principal, provide_tenant_id
from service.tenants.controller import TenantController
from service.tenants.service import TenantService

MAX_JSON_BYTES = 10_000_000


def create_app(
    settings: Settings,
    *,
    base: Any = None,  # noqa: ARG001
    engine: Any = None,  # noqa: ARG001
    store: Any = None,  # noqa: ARG001
    database: Database | None = None,
) -> Litestar:
    """Build the API. Parts not given are made from the settings, and closed at shutdown."""
    own_database = database is None
    database = database or Database(settings.sqlalchemy_url)
    tenants = TenantService(
        database,
        admin_key=load_or_make(settings.data_dir, "admin_key", settings.admin_key),
        secret=load_or_make(settings.data_dir, "secret", settings.secret),
    )
    registry = CollectorRegistry()

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        try:
            yield
        finally:
            if own_database:
                await database.close()

    app = Litestar(
        route_handlers=[TenantController],
        dependencies={
            "principal": Provide(provide_principal),
            "tenant_id": Provide(provide_tenant_id),
            "tenants": _given(tenants),
        },
        exception_handlers=exception_handlers,
        lifespan=[lifespan],
        logging_config=None,
        middleware=[DefineMiddleware(Authentication, authenticator=tenants)],
        openapi_config=None,
        request_max_body_size=MAX_JSON_BYTES,
    )
    # Litestar's own middleware runs after routing, and would miss every 404 and 405.
    app.asgi_handler = Edge(app.asgi_handler, RequestMetrics(registry))
    return app


def _given(part: Any) -> Provide:
    async def provide() -> Any:
        return part

    return Provide(provide)
