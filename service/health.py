"""Is it alive, can it work, and what is it doing: for probes, load balancers and Prometheus."""

import asyncio
from collections.abc import Iterator
from typing import Literal

from litestar import Controller, Response, get
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from sqlalchemy import func, select, text

from adapters_store import AdapterStore, StoreUnavailable
from service.database import Database
from service.database.models import JobRow
from service.errors import EngineUnavailable
from service.http.errors import errors
from service.serving.engine import Engine, EngineStatus
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

    async def engine_status(self) -> EngineStatus | None:
        """Ask the engine what it does; None when there is none."""
        try:
            return await self.engine.status()
        except EngineUnavailable:
            return None

    async def jobs_by_status(self) -> dict[str, int]:
        """Count all tenants' jobs."""
        query = select(JobRow.status, func.count()).group_by(JobRow.status)
        async with self.database.read() as session:
            return dict((await session.execute(query)).all())

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
        status = await self.engine_status()
        return status is not None and status.ready


class Snapshot(Collector):
    """The last look at jobs and engine, in Prometheus' terms."""

    def __init__(self) -> None:
        self.jobs: dict[str, int] = {}
        self.engine: EngineStatus | None = None

    async def take(self, monitor: Monitor) -> None:
        """Look anew."""
        self.jobs = await monitor.jobs_by_status()
        self.engine = await monitor.engine_status()

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        jobs = GaugeMetricFamily("lorehouse_jobs", "Fine-tuning jobs", labels=["status"])
        for status, count in sorted(self.jobs.items()):
            jobs.add_metric([status], count)
        yield jobs
        yield GaugeMetricFamily(
            "lorehouse_engine_up", "1 when the engine answers", int(self.engine is not None)
        )
        if self.engine is not None:
            yield from _engine_families(self.engine)


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


def metrics_route(registry: CollectorRegistry, *, public: bool) -> HTTPRouteHandler:
    """Make `GET /metrics`, for the admin key only unless public."""
    snapshot = Snapshot()
    registry.register(snapshot)

    @get(
        "/metrics",
        operation_id="getMetrics",
        tags=["Operations"],
        media_type=TEXT,
        guards=[] if public else [requires_admin],
        responses=errors(),
    )
    async def metrics(monitor: NamedDependency[Monitor]) -> bytes:
        """Expose requests, jobs and the engine's state in Prometheus' text format."""
        await snapshot.take(monitor)
        return generate_latest(registry)

    return metrics


def _engine_families(engine: EngineStatus) -> Iterator[Metric]:
    pinned = sum(place.pinned for place in engine.residents)
    now = {
        "running": (engine.running, "Sequences that are being generated"),
        "waiting": (engine.waiting, "Requests that wait for a place"),
        "resident_adapters": (len(engine.resident), "Adapters held in the engine"),
        "pinned_adapters": (pinned, "Adapters of those that are never evicted"),
        "kv_blocks_used": (engine.kv_blocks_used, "Blocks of the key-value cache in use"),
        "kv_blocks": (engine.kv_blocks, "Blocks of the key-value cache"),
    }
    since_start = {
        "generated_tokens": (engine.generated_tokens, "Tokens generated"),
        "adapter_loads": (engine.adapter_loads, "Adapters loaded"),
        "adapter_evictions": (engine.adapter_evictions, "Adapters evicted"),
        "adapter_hits": (engine.adapter_hits, "Requests whose adapter was resident"),
        "adapter_misses": (engine.adapter_misses, "Requests that waited for their adapter"),
        "adapter_load_failures": (engine.adapter_load_failures, "Loads of adapters that failed"),
        "preemptions": (engine.preemptions, "Sequences sent back to wait for blocks"),
        "prefix_hits": (engine.prefix_hits, "Prompt tokens found in the key-value cache"),
    }
    for name, (value, meaning) in now.items():
        yield GaugeMetricFamily(f"lorehouse_engine_{name}", meaning, value)
    for name, (value, meaning) in since_start.items():
        yield CounterMetricFamily(f"lorehouse_engine_{name}", meaning, value)
    times = engine.adapter_load_times
    yield HistogramMetricFamily(
        "lorehouse_engine_adapter_load_seconds",
        "Time from the decision to load an adapter until it can be used",
        buckets=times.buckets(),
        sum_value=times.seconds,
    )


def _state(good: bool) -> State:
    return "ready" if good else "not_ready"
