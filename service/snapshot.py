"""How things stand, in Prometheus' terms: jobs, leases, the outbox, the disk and the engine."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from sqlalchemy import func, select

from service.database import Database
from service.database.leases import RUNNING, free
from service.database.models import DeliveryRow, JobRow
from service.errors import EngineUnavailable
from service.serving.engine import Engine, EngineStatus


class Work(msgspec.Struct, frozen=True):
    """What the database tells of all tenants' work."""

    jobs: dict[str, int]
    """By status."""
    lapsed: int
    """Jobs whose runtime has been silent for longer than its lease, and that nobody took over."""
    undelivered: int
    """Webhook deliveries that are still on their way."""
    oldest_undelivered: float
    """Seconds since the oldest of them was written."""


class Snapshot(Collector):
    """The last look at database, disk and engine."""

    def __init__(self, database: Database, engine: Engine, folder: Path) -> None:
        self._database, self._engine, self._folder = database, engine, folder
        self.work: Work | None = None
        self.engine: EngineStatus | None = None

    async def take(self) -> None:
        """Look anew."""
        self.work = await self._look()
        try:
            self.engine = await self._engine.status()
        except EngineUnavailable:
            self.engine = None

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        if self.work is not None:
            yield from _work_families(self.work)
        yield from _disk_families(self._folder)
        yield GaugeMetricFamily(
            "lorehouse_engine_up", "1 when the engine answers", int(self.engine is not None)
        )
        if self.engine is not None:
            yield from _engine_families(self.engine)

    async def _look(self) -> Work:
        now = time.time()
        by_status = select(JobRow.status, func.count()).group_by(JobRow.status)
        lapsed = select(func.count()).where(JobRow.status == RUNNING, free(JobRow, now))
        waiting = select(func.count(), func.min(DeliveryRow.created_at)).where(
            DeliveryRow.status == "pending"
        )
        async with self._database.read() as session:
            undelivered, oldest = (await session.execute(waiting)).one()
            return Work(
                jobs=dict((await session.execute(by_status)).all()),
                lapsed=await session.scalar(lapsed) or 0,
                undelivered=undelivered,
                oldest_undelivered=0.0 if oldest is None else max(0.0, now - oldest),
            )


def _work_families(work: Work) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("lorehouse_jobs", "Fine-tuning jobs", labels=["status"])
    for status, count in sorted(work.jobs.items()):
        jobs.add_metric([status], count)
    yield jobs
    lapsed = "Running jobs whose runtime is silent for longer than its lease"
    yield GaugeMetricFamily("lorehouse_lapsed_leases", lapsed, work.lapsed)
    pending = "Webhook deliveries on their way"
    yield GaugeMetricFamily("lorehouse_webhook_outbox", pending, work.undelivered)
    yield GaugeMetricFamily(
        "lorehouse_webhook_outbox_age_seconds",
        "Time since the oldest of them was written",
        work.oldest_undelivered,
    )


def _disk_families(folder: Path) -> Iterator[Metric]:
    usage = shutil.disk_usage(folder)
    yield GaugeMetricFamily("lorehouse_disk_bytes", "Size of the data folder's disk", usage.total)
    yield GaugeMetricFamily("lorehouse_disk_free_bytes", "What is left of it", usage.free)


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
