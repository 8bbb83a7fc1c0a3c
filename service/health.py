"""Is it alive, can it work, and what is it doing: for probes, load balancers and Prometheus."""

import asyncio
from typing import Literal

from litestar import Controller, Response, get
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from sqlalchemy import text

from adapters_store import AdapterStore, StoreUnavailable
from service.database import Database
from service.errors import EngineUnavailable
from service.http.errors import errors
from service.serving.engine import Engine
from service.snapshot import Snapshot
from service.telemetry import logger
from service.tenants.auth import requires_admin
from service.wire import Output

log = logger(__name__)

DATABASE_SECONDS = 5.0
STORE_SECONDS = 5.0
# Litestar adds the character set by itself.
TEXT = CONTENT_TYPE_LATEST.removesuffix("; charset=utf-8")
State = Literal["ready", "not_ready"]


class Live(Output):
    """The process answers."""

    status: Literal["live"]


class Readiness(Output):
    """Whether requests can be served, and which part cannot."""

    status: State
    database: State
    store: State
    engine: State


class Monitor:
    """Looks at the parts; a part that fails is not ready, whatever the reason."""

    def __init__(self, database: Database, engine: Engine, store: AdapterStore) -> None:
        self.database = database
        self.engine = engine
        self.store = store

    async def readiness(self) -> Readiness:
        """Ask every part at once."""
        database, store, engine = await asyncio.gather(
            self._database_answers(), self._store_writable(), self._engine_ready()
        )
        whole = database and store and engine
        return Readiness(
            status=_state(whole),
            database=_state(database),
            store=_state(store),
            engine=_state(engine),
        )

    async def _database_answers(self) -> bool:
        try:
            async with asyncio.timeout(DATABASE_SECONDS), self.database.read() as session:
                await session.execute(text("SELECT 1"))
        except Exception as fault:  # noqa: BLE001  any reason makes it not ready; it is logged
            log.warning("database.not_ready", error=type(fault).__name__)
            return False
        return True

    async def _store_writable(self) -> bool:
        try:
            async with asyncio.timeout(STORE_SECONDS):
                await asyncio.to_thread(self.store.probe)
        except (StoreUnavailable, TimeoutError) as fault:
            log.warning("store.not_ready", error=str(fault) or type(fault).__name__)
            return False
        return True

    async def _engine_ready(self) -> bool:
        try:
            return (await self.engine.status()).ready
        except EngineUnavailable:
            return False


class HealthController(Controller):
    """Open to everyone: they tell no names and no numbers."""

    path = "/health"
    tags = ["Operations"]

    @get("/live", operation_id="getLiveness")
    async def live(self) -> Live:
        """Tell that the process answers, without touching anything else."""
        return Live(status="live")

    @get(
        "/ready",
        operation_id="getReadiness",
        responses={503: ResponseSpec(Readiness, description="A part is not ready")},
    )
    async def ready(self, monitor: NamedDependency[Monitor]) -> Response[Readiness]:
        """Tell whether database, adapter store and engine can do their work; 503 if one cannot."""
        readiness = await monitor.readiness()
        return Response(readiness, status_code=200 if readiness.status == "ready" else 503)


def metrics_route(
    registry: CollectorRegistry, snapshot: Snapshot, *, public: bool
) -> HTTPRouteHandler:
    """Make `GET /metrics`, for the admin key only unless public."""
    registry.register(snapshot)

    @get(
        "/metrics",
        operation_id="getMetrics",
        tags=["Operations"],
        media_type=TEXT,
        guards=[] if public else [requires_admin],
        responses=errors(),
    )
    async def metrics() -> bytes:
        """Expose requests, jobs and the engine's state in Prometheus' text format."""
        await snapshot.take()
        return generate_latest(registry)

    return metrics


def _state(good: bool) -> State:
    return "ready" if good else "not_ready"
