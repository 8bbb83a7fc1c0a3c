"""The runtime's side of the jobs: claim one, keep it by heartbeats, write its story, end it.

Every write names the lease's token. A claim or a release counts the token up, so whoever lost the
lease meanwhile is refused, however late the write arrives.
"""

import time
from collections.abc import Callable
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, Subquery, and_, case, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.models import JobCheckpointRow, JobEventRow, JobRow
from service.jobs import lifecycle
from service.jobs.lifecycle import Action, Status
from service.wire import new_id

MAX_ATTEMPTS = 3
"""Claims in a row that may end without new progress before the job is given up."""

Level = Literal["info", "warn", "error"]


class LeaseLost(Exception):
    """The job is no longer this runtime's: another claimed it, or it has ended."""


class JobLeases:
    """Jobs of all tenants, for runtimes. Use inside `Database.write()`."""

    def __init__(self, session: AsyncSession, clock: Callable[[], float] = time.time) -> None:
        self.session = session
        self.clock = clock

    async def claim(self, owner: str, lease_seconds: float) -> JobRow | None:
        """Take a job for `owner`: an interrupted one first, else a queued one, tenants in turn.

        Jobs found to be cancelled, or to have crashed their runtime MAX_ATTEMPTS times without
        progress between, are ended on the way. The row's `lease_token` fences later writes.
        """
        while (job := await self._next()) is not None:
            if job.cancel_requested:
                self.end(job, Action.CANCEL)
            elif job.attempts >= MAX_ATTEMPTS:
                self._give_up(job)
            else:
                return await self._lease(job, owner, lease_seconds)
            await self.session.flush()
        return None

    async def heartbeat(self, job_id: str, token: int, lease_seconds: float) -> bool:
        """Keep the lease; tell whether the tenant asked to cancel. Raises LeaseLost."""
        job = await self._held(job_id, token)
        job.lease_expires_at = self.clock() + lease_seconds
        return job.cancel_requested

    async def release_owner(self, owner: str) -> int:
        """Make a dead runtime's jobs claimable at once; return how many."""
        held = select(JobRow).where(JobRow.lease_owner == owner, JobRow.status == Status.RUNNING)
        jobs = (await self.session.scalars(held.with_for_update())).all()
        for job in jobs:
            _free(job)
        return len(jobs)

    async def release(self, job_id: str, token: int) -> None:
        """Make a job claimable at once, after a fault. Raises LeaseLost."""
        _free(await self._held(job_id, token))

    async def append_event(
        self,
        job_id: str,
        token: int,
        message: str,
        *,
        level: Level = "info",
        data: dict[str, Any] | None = None,
    ) -> None:
        """Tell the tenant something; with `data` it is a metrics event. Raises LeaseLost."""
        self.tell(await self._held(job_id, token), message, level=level, data=data)

    async def record_checkpoint(
        self,
        job_id: str,
        token: int,
        *,
        step_number: int,
        model_name: str,
        metrics: dict[str, float | None],
    ) -> None:
        """Note a callable checkpoint; one that a resumed run makes again is left as it was.

        Raises LeaseLost.
        """
        job = await self._held(job_id, token)
        same = select(JobCheckpointRow.seq).where(
            JobCheckpointRow.job_id == job.id, JobCheckpointRow.step_number == step_number
        )
        if await self.session.scalar(same) is not None:
            return
        self.session.add(
            JobCheckpointRow(
                id=new_id("ftckpt_"),
                tenant_id=job.tenant_id,
                job_id=job.id,
                created_at=self._now(),
                step_number=step_number,
                model_name=model_name,
                metrics=metrics,
            )
        )

    async def progress(
        self, job_id: str, token: int, *, trained_tokens: int, estimated_finish: int | None
    ) -> None:
        """Note how far training is; going beyond the farthest so far forgives earlier crashes.

        Raises LeaseLost.
        """
        job = await self._held(job_id, token)
        job.estimated_finish = estimated_finish
        if trained_tokens > (job.trained_tokens or 0):
            job.trained_tokens = trained_tokens
            job.attempts = 0

    async def finish(
        self,
        job_id: str,
        token: int,
        status: Literal["succeeded", "failed", "cancelled"],
        *,
        fine_tuned_model: str | None = None,
        trained_tokens: int | None = None,
        error_code: str | None = None,
        error_message: str | None = None,
        error_param: str | None = None,
    ) -> None:
        """End the job, with its closing event; a failed one needs an `error_code`.

        Raises LeaseLost.
        """
        if status == "failed" and error_code is None:
            raise ValueError("a job fails for a reason")
        job = await self._held(job_id, token)
        job.fine_tuned_model = fine_tuned_model
        job.trained_tokens = job.trained_tokens if trained_tokens is None else trained_tokens
        job.error_code, job.error_message, job.error_param = error_code, error_message, error_param
        self.end(job, _ENDINGS[status])

    async def requeue(self, job_id: str, token: int) -> None:
        """Give the job back, to be resumed: this runtime shuts down. Raises LeaseLost."""
        job = await self._held(job_id, token)
        job.status = lifecycle.apply(job.status, Action.REQUEUE)
        job.lease_owner = job.lease_expires_at = job.estimated_finish = None
        # An orderly end is no crash.
        job.attempts = max(0, job.attempts - 1)
        self.tell(job, "Training was interrupted by a shutdown and will resume")

    def tell(
        self,
        job: JobRow,
        message: str,
        *,
        level: Level = "info",
        data: dict[str, Any] | None = None,
    ) -> None:
        """Append an event to a job that this transaction has loaded."""
        self.session.add(
            JobEventRow(
                id=new_id("ftevent-"),
                tenant_id=job.tenant_id,
                job_id=job.id,
                created_at=self._now(),
                level=level,
                type="message" if data is None else "metrics",
                message=message,
                data=data,
            )
        )

    def end(self, job: JobRow, action: Action) -> None:
        """End a job that this transaction has loaded, with its closing event."""
        job.status = lifecycle.apply(job.status, action)
        job.finished_at = self._now()
        job.lease_owner = job.lease_expires_at = job.estimated_finish = None
        if action is Action.FAIL:
            self.tell(job, f"The job failed: {job.error_message}", level="error")
        elif action is Action.CANCEL:
            self.tell(job, "The job was cancelled")
        else:
            self.tell(job, f"The job has successfully completed: {job.fine_tuned_model}")

    async def _next(self) -> JobRow | None:
        job: JobRow | None = await self.session.scalar(_claimable(self.clock()))
        return job

    async def _lease(self, job: JobRow, owner: str, lease_seconds: float) -> JobRow:
        resumed = job.started_at is not None
        job.status = lifecycle.apply(job.status, Action.CLAIM)
        job.started_at = job.started_at or self._now()
        job.attempts += 1
        job.lease_owner = owner
        job.lease_token += 1
        job.lease_expires_at = self.clock() + lease_seconds
        self.tell(job, "Resumed after an interruption" if resumed else "Fine-tuning job started")
        await self.session.flush()
        return job

    async def _held(self, job_id: str, token: int) -> JobRow:
        held = select(JobRow).where(
            JobRow.id == job_id, JobRow.lease_token == token, JobRow.status == Status.RUNNING
        )
        job = await self.session.scalar(held.with_for_update())
        if job is None:
            raise LeaseLost(f"{job_id} is no longer held under token {token}")
        return job

    def _give_up(self, job: JobRow) -> None:
        job.error_code = "runtime_crashed"
        job.error_message = f"The training process died {job.attempts} times without progress"
        self.end(job, Action.FAIL)

    def _now(self) -> int:
        return int(self.clock())


def _free(job: JobRow) -> None:
    job.lease_owner = None
    job.lease_expires_at = 0.0
    job.lease_token += 1


_ENDINGS = {"succeeded": Action.SUCCEED, "failed": Action.FAIL, "cancelled": Action.CANCEL}


def _claimable(at: float) -> Select[JobRow]:
    silent = or_(JobRow.lease_expires_at.is_(None), JobRow.lease_expires_at < at)
    interrupted = and_(JobRow.status == Status.RUNNING, silent)
    free = or_(JobRow.status == Status.QUEUED, interrupted)
    turns = _turns(free, live=and_(JobRow.status == Status.RUNNING, ~silent))
    # What was begun comes first; then whose jobs run least, and whose turn is longest ago.
    order = (case((interrupted, 0), else_=1), turns.c.running, turns.c.last, JobRow.seq)
    return (
        select(JobRow)
        .join(turns, turns.c.tenant_id == JobRow.tenant_id)
        .where(free)
        .order_by(*order)
        .limit(1)
        .with_for_update(skip_locked=True, of=JobRow)
        .execution_options(populate_existing=True)
    )


def _turns(free: ColumnElement[bool], live: ColumnElement[bool]) -> Subquery:
    """Count each waiting tenant's running jobs, and find when one of its jobs was last begun."""
    # Only of tenants that wait: claims are tried often, and mostly nothing waits.
    waiting = select(JobRow.tenant_id).where(free)
    return (
        select(
            JobRow.tenant_id,
            func.sum(case((live, 1), else_=0)).label("running"),
            func.coalesce(func.max(JobRow.started_at), 0).label("last"),
        )
        .where(JobRow.tenant_id.in_(waiting))
        .group_by(JobRow.tenant_id)
        .subquery()
    )
