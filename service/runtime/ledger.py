"""What a training run leaves in the database: one transaction each, fenced by the job's lease."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from adapters_store import RevisionRef, is_blank
from service import tracing
from service.adapters.removing import publishing
from service.base.probes import Probes
from service.database import Database
from service.database.models import JobRow
from service.jobs.repository import JobRepository
from service.runtime.publishing import Metrics, Publisher
from service.runtime.story import Story, Told
from service.serving.gate import Verdict
from service.training.trainer import (
    EpochDone,
    Started,
    StepDone,
    TrainingEvent,
    TrainingOutcome,
)

_PAGE = 1000


class _Made(msgspec.Struct, frozen=True):
    """A revision whose files are in the store, and what the gate says of it."""

    ref: RevisionRef
    verdict: Verdict


class Ledger:
    """Writes the story of one leased job. Everything raises LeaseLost, and then wrote nothing."""

    def __init__(self, database: Database, job: JobRow, publisher: Publisher, story: Story) -> None:
        self._database = database
        self._tenant = job.tenant_id
        self._lease = (job.id, job.lease_token)
        self._publisher = publisher
        self._story = story
        self._began = (time.time(), 0)

    async def keep(self, events: Sequence[TrainingEvent]) -> None:
        """Write what happened, in order; an epoch's adapter is published on the way."""
        batch: list[TrainingEvent] = []
        for event in events:
            batch.append(event)
            if isinstance(event, EpochDone):
                async with publishing(self._database, self._tenant):
                    made = await self._publish(
                        event.adapter, event.step, event.metrics, event.probes
                    )
                    await self._write(batch, event, made)
                batch = []
        if batch:
            await self._write(batch)

    async def succeed(self, outcome: TrainingOutcome, lease_seconds: float) -> str:
        """Publish the result and end the job; returns how it ended.

        A late cancel still counts, and what the publish gate rejects makes the job fail.
        """
        async with publishing(self._database, self._tenant):
            return await self._succeed(outcome, lease_seconds)

    async def _succeed(self, outcome: TrainingOutcome, lease_seconds: float) -> str:
        assert outcome.probes is not None
        made = await self._publish(outcome.adapter, outcome.steps, outcome.metrics, outcome.probes)
        async with self._database.write() as session:
            jobs = JobRepository(session)
            if await jobs.heartbeat(*self._lease, lease_seconds):
                await jobs.finish(*self._lease, "cancelled")
                return "cancelled"
            if not made.verdict.passed:
                await self._publisher.reject(session, made.ref, made.verdict)
                await self._fail(jobs, made.verdict, outcome.trained_tokens)
                return "failed"
            name = await self._publisher.record(session, made.ref, made.verdict)
            await self._tell(jobs, self._story.once(f"New fine-tuned model created: {name}"))
            if (alias := await self._publisher.move_alias(session, made.ref.digest)) is not None:
                await self._tell(jobs, self._story.once(f"Alias {alias} now names {name}"))
            await jobs.finish(
                *self._lease,
                "succeeded",
                fine_tuned_model=name,
                trained_tokens=outcome.trained_tokens,
            )
        await self._publisher.prefetch(made.ref)
        return "succeeded"

    async def _publish(self, adapter: Path, step: int, metrics: Metrics, probes: Probes) -> _Made:
        """Put files into the store, and have them examined there; no row speaks of them yet."""
        with tracing.span("job.publish", {"step": step}):
            ref = await asyncio.to_thread(self._publisher.publish, adapter, step, metrics)
            blank = await asyncio.to_thread(is_blank, adapter)
        probes = msgspec.structs.replace(probes, blank=blank)
        with tracing.span("job.gate", {"step": step}):
            return _Made(ref, await self._publisher.examine(ref, probes))

    async def _fail(self, jobs: JobRepository, verdict: Verdict, trained_tokens: int) -> None:
        await jobs.finish(
            *self._lease,
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
            await self._tell(jobs, told)
            await self._progress(jobs, events)
            if epoch is not None and made is not None:
                await self._checkpoint(session, jobs, epoch, made)

    async def _checkpoint(
        self, session: AsyncSession, jobs: JobRepository, epoch: EpochDone, made: _Made
    ) -> None:
        step = epoch.step
        if not made.verdict.passed:
            await self._publisher.reject(session, made.ref, made.verdict, step)
            message = f"Checkpoint at step {step} was rejected by the publish gate and cannot be"
            message = f"{message} called: {made.verdict.reason}"
            await self._tell(jobs, self._story.once(message, "warn"))
            return
        name = await self._publisher.record(session, made.ref, made.verdict, step)
        await jobs.record_checkpoint(
            *self._lease, step_number=step, model_name=name, metrics=epoch.metrics
        )
        message = f"Checkpoint created at step {step} with Snapshot ID: {name}"
        await self._tell(jobs, self._story.once(message))

    async def _tell(self, jobs: JobRepository, told: Sequence[Told]) -> None:
        for one in told:
            await jobs.append_event(*self._lease, one.message, level=one.level, data=one.data)

    async def _progress(self, jobs: JobRepository, events: Sequence[TrainingEvent]) -> None:
        for event in events:
            if isinstance(event, Started):
                self._began = (time.time(), event.step)
        steps = [event for event in events if isinstance(event, StepDone)]
        if steps:
            await jobs.progress(
                *self._lease,
                trained_tokens=steps[-1].tokens,
                estimated_finish=self._estimate(steps[-1]),
            )

    def _estimate(self, last: StepDone) -> int:
        began, from_step = self._began
        each = (time.time() - began) / max(1, last.step - from_step)
        return round(time.time() + each * (last.total_steps - last.step))


async def told_before(database: Database, job: JobRow) -> list[tuple[str, dict[str, Any] | None]]:
    """Read what earlier attempts told the tenant."""
    told: list[tuple[str, dict[str, Any] | None]] = []
    seq, full = 0, True
    async with database.read() as session:
        jobs = JobRepository(session)
        while full:
            events = await jobs.events_since(job.tenant_id, job.id, seq, _PAGE)
            told += [(event.message, event.data) for event in events]
            seq, full = events[-1].seq if events else seq, len(events) == _PAGE
    return told


async def finish(
    database: Database,
    job: JobRow,
    status: Literal["failed", "cancelled"],
    **error: str | None,
) -> None:
    """End a job without a result. Raises LeaseLost."""
    async with database.write() as session:
        await JobRepository(session).finish(job.id, job.lease_token, status, **error)  # type: ignore[arg-type]


async def requeue(database: Database, job: JobRow) -> None:
    """Give a job back: this runtime shuts down. Raises LeaseLost."""
    async with database.write() as session:
        await JobRepository(session).requeue(job.id, job.lease_token)


async def give_up(database: Database, job: JobRow) -> None:
    """Free a job after a fault of ours; claims count the attempts. Raises LeaseLost."""
    async with database.write() as session:
        jobs = JobRepository(session)
        message = "Training was interrupted by an internal error and will be tried again"
        await jobs.append_event(job.id, job.lease_token, message, level="warn")
        await jobs.release(job.id, job.lease_token)
