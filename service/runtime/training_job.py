"""One claimed job, from its file to its fine-tuned model."""

import asyncio
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog
from opentelemetry.trace import SpanKind

from adapters_store import InvalidAdapter, Revision, RevisionRef
from service import tracing
from service.adapters.parents import open_parent
from service.database.faults import AWAY
from service.database.models import JobRow
from service.errors import ServiceError
from service.jobs.lifecycle import is_terminal
from service.jobs.repository import JobRepository, LeaseLost
from service.rendering.examples import Example
from service.runtime import ledger
from service.runtime.lease import Lease
from service.runtime.ledger import Ledger
from service.runtime.publishing import Publisher, dataset_digests, origin
from service.runtime.relay import Relay
from service.runtime.story import Story
from service.runtime.training_parts import Parts
from service.telemetry import logger
from service.training.batch.faults import held_otherwise
from service.training.spec import TrainingSpec
from service.training.split import split
from service.training.trainer import (
    CheckpointDue,
    StepDone,
    TrainingError,
    TrainingEvent,
    TrainingOutcome,
    TrainingTask,
)

SERVER_ERRORS = 500

Interrupted = Callable[[], str | None]
"""Says why a job is to be put down now, or None."""

T = TypeVar("T")

_log = logger(__name__)


async def work_on(parts: Parts, job: JobRow, thread: Executor, interrupted: Interrupted) -> None:
    """Bring a claimed job to its end, or put it down when asked to; train in `thread`.

    `interrupted` may be called from any thread. Raises what is our fault, once the job is free for
    another try.
    """
    facts = {"lorehouse.tenant": job.tenant_id, "lorehouse.job": job.id}
    with (
        structlog.contextvars.bound_contextvars(tenant=job.tenant_id, job=job.id),
        tracing.span("job", facts, parent=job.traceparent, kind=SpanKind.CONSUMER),
        parts.metrics.jobs.track_inprogress(),
    ):
        _log.info("job.claimed", attempt=job.attempts)
        tracing.past("job.queue", job.created_at * tracing.NANO, time.time_ns())
        try:
            async with Lease(parts.database, job, parts.lease_seconds, JobRepository) as lease:
                await _Work(parts, job, lease, thread, interrupted).go()
        except LeaseLost:
            parts.metrics.given_back.labels("lease_lost").inc()
            _log.warning("job.lease_lost")
        except Exception:
            parts.metrics.given_back.labels("crashed").inc()
            _log.exception("job.crashed")
            await _give_up(parts, job)
            raise


class _Work:
    def __init__(
        self, parts: Parts, job: JobRow, lease: Lease, thread: Executor, interrupted: Interrupted
    ) -> None:
        self._parts = parts
        self._job = job
        self._lease = lease
        self._thread = thread
        self._interrupted = interrupted
        self._workdir = parts.workdirs / job.id
        self._lent: Revision | None = None

    async def go(self) -> None:
        """Work on the job; faults that trying again would not mend end it."""
        try:
            await self._train_and_finish()
        except TrainingError as fault:
            await self._fail(fault.message, fault.code, fault.param)
        except InvalidAdapter as fault:
            await self._fail(f"The adapter cannot be published: {fault}", "invalid_adapter", None)
        except ServiceError as fault:
            if fault.status >= SERVER_ERRORS:
                raise
            await self._fail(fault.message, fault.code or fault.type, fault.param)

    async def _train_and_finish(self) -> None:
        job, parts = self._job, self._parts
        task = await self._task()
        digests = await dataset_digests(parts, job)
        made_from = await asyncio.to_thread(origin, parts, job, task.train, digests)
        story = Story(await ledger.told_before(parts.database, job))
        book = Ledger(parts.database, job, self._lease, Publisher(parts, job, made_from), story)
        outcome = None if self._should_stop() else await self._train(task, book)
        if outcome is None or outcome.stopped:
            await self._put_down()
        else:
            ending = await book.succeed(outcome)
            await self._ended(ending, steps=outcome.steps, trained_tokens=outcome.trained_tokens)

    async def _task(self) -> TrainingTask:
        job, spec = self._job, msgspec.convert(self._job.spec, TrainingSpec)
        if spec.quantization not in ("auto", self._parts.quantization):
            raise held_otherwise(self._parts.quantization)
        train = await self._examples(job.training_file, "training_file")
        if job.validation_file is None:
            train, validation = split(train, spec.validation_split, spec.seed)
        else:
            validation = await self._examples(job.validation_file, "validation_file")
        parent = await asyncio.to_thread(self._parent, spec)
        return TrainingTask(
            job.id,
            spec,
            train,
            validation,
            self._workdir,
            tenant=job.tenant_id,
            weight=await ledger.weight(self._parts.database, job),
            priority=job.priority,
            parent=parent,
        )

    def _parent(self, spec: TrainingSpec) -> Path | None:
        """Find the folder of the revision to go on from, verified."""
        wanted, parts = spec.base_adapter, self._parts
        if wanted is None:
            return None
        ref = RevisionRef(self._job.tenant_id, wanted.adapter, wanted.digest)
        # Kept until the job ends, so that the store keeps the folder.
        self._lent = open_parent(parts.store, parts.base, ref)
        return self._lent.path

    async def _examples(self, file_id: str, param: str) -> list[Example]:
        try:
            return await self._parts.examples(self._job.tenant_id, file_id)
        except ServiceError as fault:
            fault.param = param
            raise

    async def _train(self, task: TrainingTask, book: Ledger) -> TrainingOutcome:
        relay = Relay(book.keep)
        relaying = asyncio.create_task(relay.run())
        job = self._job
        trained = self._parts.metrics.trained(job.tenant_id, job.trained_tokens or 0)
        with tracing.span("job.train") as span:

            def report(event: TrainingEvent) -> None:
                # Who holds the job by now may already write in the same workdir.
                self._lease.check()
                if isinstance(event, StepDone):
                    trained.step(event)
                    self._parts.speeds.note(task.spec.method, event.tokens_per_second)
                elif isinstance(event, CheckpointDue):
                    span.add_event("checkpoint", {"step": event.step})
                relay.report(event)

            trainer = self._parts.trainers[task.spec.method]
            try:
                outcome = await self._in_thread(
                    lambda: trainer.train(task, report, self._should_stop)
                )
            finally:
                relay.close()
                await relaying
            span.set_attributes({"steps": outcome.steps, "tokens": outcome.trained_tokens})
            return outcome

    async def _put_down(self) -> None:
        self._lease.check()
        # Without one the tenant called its request off, which was seen too late.
        reason = self._interrupted() or "The pause was called off: training goes on"
        status = await self._lease.insist(
            partial(ledger.put_down, self._parts.database, self._job, reason)
        )
        if is_terminal(status):
            await self._ended(status)
        else:
            self._parts.metrics.given_back.labels("put_down").inc()
            _log.info("job.put_down", status=status)

    async def _fail(self, message: str, code: str, param: str | None) -> None:
        await self._lease.insist(
            partial(ledger.fail, self._parts.database, self._job, message, code, param)
        )
        await self._ended("failed", code=code)

    async def _ended(self, status: str, **facts: Any) -> None:
        self._parts.metrics.ended.labels(status).inc()
        _log.info("job.finished", status=status, **facts)
        await asyncio.to_thread(shutil.rmtree, self._workdir, ignore_errors=True)

    def _should_stop(self) -> bool:
        return self._lease.stopping or self._lease.lost or self._interrupted() is not None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


async def _give_up(parts: Parts, job: JobRow) -> None:
    try:
        await ledger.give_up(parts.database, job, parts.retries)
    except LeaseLost:
        _log.warning("job.lease_lost")
    except AWAY:
        # The lease lapses, and somebody tries again.
        _log.warning("job.not_released", exc_info=True)
