"""What a training run leaves in the database: one transaction each, fenced by the job's lease."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from adapters_store import RevisionRef, is_blank
from service import tracing
from service.adapters.removing import publishing
from service.base.probes import Probes
from service.database import Database
from service.database.models import JobRow
from service.jobs.repository import JobRepository
from service.runtime.backoff import Backoff
from service.runtime.lease import Lease
from service.runtime.publishing import Metrics, Publisher
from service.runtime.story import Story, Told
from service.serving.gate import Verdict
from service.tenants.repository import TenantRepository
from service.training.trainer import (
    CheckpointDue,
    EpochDone,
    Started,
    StepDone,
    TrainingEvent,
    TrainingOutcome,
)

_PAGE = 1000

T = TypeVar("T")


class _Made(msgspec.Struct, frozen=True):
    """A revision whose files are in the store, and what the gate says of it."""

    ref: RevisionRef
    verdict: Verdict


class Ledger:
    """Writes the story of one leased job. Everything raises LeaseLost, and then wrote nothing.

    While the database is away it insists, for as long as the lease stands.
    """

    def __init__(
        self, database: Database, job: JobRow, lease: Lease, publisher: Publisher, story: Story
    ) -> None:
        self._database = database
        self._job = job
        self._lease = lease
        self._held = (job.id, job.lease_token)
        self._publisher = publisher
        self._story = story
        self._began = (time.time(), 0)
        self._tokens = 0
        self._due: int | None = None
        """The trained tokens of a checkpoint that may not have been kept yet."""

    async def keep(self, events: Sequence[TrainingEvent]) -> None:
        """Write what happened, in order; an epoch's adapter is published on the way."""
        batch: list[TrainingEvent] = []
        for event in events:
            batch.append(event)
            if isinstance(event, Started) and event.probes is not None:
                self._publisher.foresee(event.probes)
            if isinstance(event, EpochDone):
                await self._insist(partial(self._keep_epoch, batch, event))
                batch = []
        if batch:
            await self._insist(partial(self._write, batch))

    async def succeed(self, outcome: TrainingOutcome) -> str:
        """Publish the result and end the job; returns how it ended.

        A late cancel still counts, a pause does not: nothing is left to do. What the publish gate
        rejects makes the job fail.
        """
        return await self._insist(partial(self._succeed, outcome))

    async def _insist(self, write: Callable[[], Awaitable[T]]) -> T:
        tried = False

        async def attempt() -> T:
            nonlocal tried
            if tried:
                # The answer may have been lost, and not the write.
                self._story.recall(await told_before(self._database, self._job))
            tried = True
            return await write()

        return await self._lease.insist(attempt)

    async def _keep_epoch(self, events: Sequence[TrainingEvent], epoch: EpochDone) -> None:
        async with publishing(self._database, self._job.tenant_id):
            made = await self._publish(epoch.adapter, epoch.step, epoch.metrics, epoch.probes)
            await self._write(events, epoch, made)

    async def _succeed(self, outcome: TrainingOutcome) -> str:
        assert outcome.probes is not None
        async with publishing(self._database, self._job.tenant_id):
            made = await self._publish(
                outcome.adapter, outcome.steps, outcome.metrics, outcome.probes
            )
            return await self._end(outcome, made)

    async def _end(self, outcome: TrainingOutcome, made: _Made) -> str:
        async with self._database.write() as session:
            jobs = JobRepository(session)
            job = await jobs.held(*self._held)
            if job.cancel_requested:
                await jobs.finish(*self._held, "cancelled")
                return "cancelled"
            if not made.verdict.passed:
                await self._publisher.reject(session, made.ref, made.verdict)
                await self._fail(jobs, made.verdict, outcome.trained_tokens)
                return "failed"
            name = await self._publisher.record(session, made.ref, made.verdict)
            _tell(jobs, job, self._story.once(f"New fine-tuned model created: {name}"))
            if (alias := await self._publisher.move_alias(session, made.ref.digest)) is not None:
                _tell(jobs, job, self._story.once(f"Alias {alias} now names {name}"))
            await jobs.finish(
                *self._held,
                "succeeded",
                fine_tuned_model=name,
                trained_tokens=outcome.trained_tokens,
            )
        await self._publisher.prefetch(made.ref)
        return "succeeded"

    async def _publish(self, adapter: Path, step: int, metrics: Metrics, probes: Probes) -> _Made:
        """Put files into the store, and have them examined there; no row speaks of them yet.

        The last epoch's are the result's, as a rule, and have both behind them.
        """
        if (found := await self._publisher.published(step)) is not None:
            return _Made(*found)
        with tracing.span("job.publish", {"step": step}):
            ref = await asyncio.to_thread(self._publisher.publish, adapter, step, metrics)
            blank = await asyncio.to_thread(is_blank, adapter)
        probes = msgspec.structs.replace(probes, blank=blank)
        with tracing.span("job.gate", {"step": step}):
            return _Made(ref, await self._publisher.examine(ref, probes))

    async def _fail(self, jobs: JobRepository, verdict: Verdict, trained_tokens: int) -> None:
        await jobs.finish(
            *self._held,
            "failed",
            trained_tokens=trained_tokens,
            error_code="publish_gate_rejected",
            error_message=f"The publish gate rejected the adapter: {verdict.reason}",
        )

    async def _write(
        self,
        events: Sequence[TrainingEvent],
        epoch: EpochDone | None = None,
        made: _Made | None = None,
    ) -> None:
        told = [told for event in events for told in self._story.tell(event)]
        async with self._database.write() as session:
            jobs = JobRepository(session)
            job = await jobs.held(*self._held)
            _tell(jobs, job, told)
            await self._progress(jobs, events)
            due = await self._advance(jobs, events)
            if epoch is not None and made is not None:
                await self._checkpoint(jobs, job, epoch, made)
        self._tokens, self._due = due

    async def _checkpoint(
        self, jobs: JobRepository, job: JobRow, epoch: EpochDone, made: _Made
    ) -> None:
        session, step = jobs.session, epoch.step
        if not made.verdict.passed:
            await self._publisher.reject(session, made.ref, made.verdict, step)
            message = f"Checkpoint at step {step} was rejected by the publish gate and cannot be"
            message = f"{message} called: {made.verdict.reason}"
            _tell(jobs, job, self._story.once(message, "warn"))
            return
        name = await self._publisher.record(session, made.ref, made.verdict, step)
        await jobs.record_checkpoint(
            *self._held, step_number=step, model_name=name, metrics=epoch.metrics
        )
        message = f"Checkpoint created at step {step} with Snapshot ID: {name}"
        _tell(jobs, job, self._story.once(message))

    async def _progress(self, jobs: JobRepository, events: Sequence[TrainingEvent]) -> None:
        for event in events:
            if isinstance(event, Started):
                self._began = (time.time(), event.step)
        steps = [event for event in events if isinstance(event, StepDone)]
        if steps:
            await jobs.progress(
                *self._held,
                trained_tokens=steps[-1].tokens,
                estimated_finish=self._estimate(steps[-1]),
            )

    async def _advance(
        self, jobs: JobRepository, events: Sequence[TrainingEvent]
    ) -> tuple[int, int | None]:
        """Note the checkpoints that are kept: those that something came after."""
        tokens, due = self._tokens, self._due
        for event in events:
            if due is not None:
                await jobs.kept(*self._held, due)
            tokens = event.tokens if isinstance(event, StepDone) else tokens
            due = tokens if isinstance(event, CheckpointDue) else None
        return tokens, due

    def _estimate(self, last: StepDone) -> int:
        began, from_step = self._began
        each = (time.time() - began) / max(1, last.step - from_step)
        return round(time.time() + each * (last.total_steps - last.step))


def _tell(jobs: JobRepository, job: JobRow, told: Sequence[Told]) -> None:
    for one in told:
        jobs.tell(job, one.message, level=one.level, data=one.data)


async def told_before(database: Database, job: JobRow) -> list[tuple[str, dict[str, Any] | None]]:
    """Read what earlier attempts told the tenant."""
    told: list[tuple[str, dict[str, Any] | None]] = []
    seq, full = 0, True
    async with database.read() as session:
        jobs = JobRepository(session)
        while full:
            events, _ = await jobs.news(job.tenant_id, job.id, seq, _PAGE)
            told += [(event.message, event.data) for event in events]
            seq, full = events[-1].seq if events else seq, len(events) == _PAGE
    return told


async def weight(database: Database, job: JobRow) -> float:
    """Read the weight of a job's tenant."""
    async with database.read() as session:
        return (await TenantRepository(session).get(job.tenant_id)).weight


async def fail(database: Database, job: JobRow, message: str, code: str, param: str | None) -> None:
    """End a job for its own fault. Raises LeaseLost."""
    async with database.write() as session:
        await JobRepository(session).finish(
            job.id,
            job.lease_token,
            "failed",
            error_message=message,
            error_code=code,
            error_param=param,
        )


async def put_down(database: Database, job: JobRow, reason: str) -> str:
    """Cancel or pause a job as asked, else give it back; tell its status. Raises LeaseLost."""
    async with database.write() as session:
        return await JobRepository(session).put_down(job.id, job.lease_token, reason)


async def give_up(database: Database, job: JobRow, retries: Backoff) -> None:
    """Free a job after a fault of ours; claims count the attempts. Raises LeaseLost."""
    async with database.write() as session:
        jobs = JobRepository(session)
        message = "Training was interrupted by an internal error and will be tried again"
        jobs.tell(await jobs.held(job.id, job.lease_token), message, level="warn")
        await jobs.release(job.id, job.lease_token, retries.after)
