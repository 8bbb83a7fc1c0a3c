"""One claimed job, from its file to its fine-tuned model."""

import asyncio
import shutil
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog

from adapters_store import InvalidAdapter, Revision, RevisionRef
from service.adapters.parents import open_parent
from service.database.models import JobRow
from service.errors import ServiceError
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
    StepDone,
    TrainingError,
    TrainingEvent,
    TrainingOutcome,
    TrainingTask,
)

SERVER_ERRORS = 500

T = TypeVar("T")

_log = logger(__name__)


async def work_on(parts: Parts, job: JobRow, thread: Executor, shutdown: asyncio.Event) -> None:
    """Bring a claimed job to its end, or give it back at shutdown; train in `thread`.

    Raises what is our fault, once the job is free for another try.
    """
    with structlog.contextvars.bound_contextvars(tenant=job.tenant_id, job=job.id):
        _log.info("job.claimed", attempt=job.attempts)
        try:
            async with Lease(parts.database, job, parts.lease_seconds, JobRepository) as lease:
                await _Work(parts, job, lease, thread, shutdown).go()
        except LeaseLost:
            _log.warning("job.lease_lost")
        except Exception:
            _log.exception("job.crashed")
            await _give_up(parts, job)
            raise


class _Work:
    def __init__(
        self, parts: Parts, job: JobRow, lease: Lease, thread: Executor, shutdown: asyncio.Event
    ) -> None:
        self._parts = parts
        self._job = job
        self._lease = lease
        self._thread = thread
        self._shutdown = shutdown
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
        book = Ledger(parts.database, job, Publisher(parts, job, made_from), story)
        outcome = None if self._should_stop() else await self._train(task, book)
        if outcome is None or outcome.stopped:
            await self._stop()
        else:
            ending = await book.succeed(outcome, self._lease.seconds)
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
        return TrainingTask(job.id, spec, train, validation, self._workdir, job.tenant_id, parent)

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

        def report(event: TrainingEvent) -> None:
            # Who holds the job by now may already write in the same workdir.
            self._lease.check()
            if isinstance(event, StepDone):
                self._parts.speeds.note(task.spec.method, event.tokens_per_second)
            relay.report(event)

        trainer = self._parts.trainers[task.spec.method]
        try:
            return await self._in_thread(lambda: trainer.train(task, report, self._should_stop))
        finally:
            relay.close()
            await relaying

    async def _stop(self) -> None:
        self._lease.check()
        if self._lease.cancelled:
            await ledger.finish(self._parts.database, self._job, "cancelled")
            await self._ended("cancelled")
        else:
            await ledger.requeue(self._parts.database, self._job)
            _log.info("job.requeued")

    async def _fail(self, message: str, code: str, param: str | None) -> None:
        await ledger.finish(
            self._parts.database,
            self._job,
            "failed",
            error_message=message,
            error_code=code,
            error_param=param,
        )
        await self._ended("failed", code=code)

    async def _ended(self, status: str, **facts: Any) -> None:
        _log.info("job.finished", status=status, **facts)
        await asyncio.to_thread(shutil.rmtree, self._workdir, ignore_errors=True)

    def _should_stop(self) -> bool:
        return self._lease.cancelled or self._lease.lost or self._shutdown.is_set()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


async def _give_up(parts: Parts, job: JobRow) -> None:
    try:
        await ledger.give_up(parts.database, job)
    except LeaseLost:
        _log.warning("job.lease_lost")
