"""The runtime's side of the jobs: claim one, write its story under the lease, end it."""

import time
from collections.abc import Callable
from typing import Any, Literal

from sqlalchemy import and_, case, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.leases import QUEUED, RUNNING, LeaseLost, Leases, free, live
from service.database.models import JobCheckpointRow, JobEventRow, JobRow, TenantRow
from service.jobs import lifecycle
from service.jobs.lifecycle import Action, Standing, Status
from service.jobs.turns import Load, gives_way
from service.tenants.quotas import Quotas
from service.tenants.usage_counters import Amount, Counter, day_of
from service.tenants.usage_repository import UsageRepository
from service.webhooks.outbox import Outbox
from service.wire import new_id

__all__ = ["MAX_ATTEMPTS", "JobLeases", "LeaseLost"]

Level = Literal["info", "warn", "error"]

MAX_ATTEMPTS = 5
"""Claims in a row that may end without a farther checkpoint before a job is given up."""
FULL_SECONDS = 2.0
"""Between two looks at a job whose tenant has as many running as it may."""


class JobLeases(Leases[JobRow]):
    """Jobs of all tenants, for runtimes. Use inside `Database.write()`."""

    first = (JobRow.priority.desc(),)

    def __init__(self, session: AsyncSession, clock: Callable[[], float] = time.time) -> None:
        super().__init__(session, JobRow, clock)

    async def claim(self, owner: str, lease_seconds: float, quotas: Quotas) -> JobRow | None:
        """Take a job for `owner`: an interrupted one first, else a queued one, tenants in turn.

        Jobs found to be cancelled, or to have crashed their runtime MAX_ATTEMPTS times without
        progress between, are ended on the way, those that were about to pause are paused, and
        those of tenants that have as many running as they may rest a while. The row's `lease_token`
        fences later writes.
        """
        while (job := await self.next()) is not None:
            if job.wants_to_stop:
                await self._put_down(job)
            elif job.attempts >= MAX_ATTEMPTS:
                await self._give_up(job)
            elif not await quotas.may_run(self.session, job.tenant_id):
                job.not_before = self.clock() + FULL_SECONDS
            else:
                return await self._begin(job, owner, lease_seconds)
            await self.session.flush()
        return None

    async def to_give_way(self, owner: str, patience: float) -> str | None:
        """Find the job of `owner` that is to be put down for one that waits; see `turns`.

        All runtimes see the same one, so that a single place is made at a time. A job younger than
        `patience` seconds does not wait yet: it may be claimed at any moment.
        """
        tenant = gives_way(await self._loads(patience))
        running = select(JobRow).where(JobRow.tenant_id == tenant, live(JobRow, self.clock()))
        least = running.order_by(JobRow.priority, JobRow.seq.desc()).limit(1)
        job = None if tenant is None else await self.session.scalar(least)
        return job.id if job is not None and job.lease_owner == owner else None

    async def _loads(self, patience: float) -> list[Load]:
        at = self.clock()
        waits = and_(free(JobRow, at), JobRow.created_at <= at - patience)
        query = (
            select(
                TenantRow.id,
                TenantRow.weight,
                func.sum(case((live(JobRow, at), 1), else_=0)),
                func.sum(case((waits, 1), else_=0)),
            )
            .join(JobRow, JobRow.tenant_id == TenantRow.id)
            .where(JobRow.status.in_((QUEUED, RUNNING)))
            .group_by(TenantRow.id, TenantRow.weight)
        )
        rows = await self.session.execute(query)
        return [Load(name, weight, running, bool(waits)) for name, weight, running, waits in rows]

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
        job = await self.held(job_id, token)
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
                created_at=self.now(),
                step_number=step_number,
                model_name=model_name,
                metrics=metrics,
            )
        )

    async def progress(
        self, job_id: str, token: int, *, trained_tokens: int, estimated_finish: int | None
    ) -> None:
        """Note how far training is. Raises LeaseLost."""
        job = await self.held(job_id, token)
        job.estimated_finish = estimated_finish
        job.trained_tokens = max(trained_tokens, job.trained_tokens or 0)

    async def kept(self, job_id: str, token: int, trained_tokens: int) -> None:
        """Note that a checkpoint was kept; one beyond the farthest so far forgives earlier crashes.

        Steps alone do not: those behind the checkpoint are trained again. Raises LeaseLost.
        """
        job = await self.held(job_id, token)
        if trained_tokens > job.checkpoint_tokens:
            job.checkpoint_tokens = trained_tokens
            job.attempts = 0
            await self._account(job)

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
        job = await self.held(job_id, token)
        job.fine_tuned_model = fine_tuned_model
        # Never less than was told, and accounted, before.
        if trained_tokens is not None:
            job.trained_tokens = max(trained_tokens, job.trained_tokens or 0)
        job.error_code, job.error_message, job.error_param = error_code, error_message, error_param
        await self.end(job, _ENDINGS[status])

    async def put_down(self, job_id: str, token: int, reason: str) -> str:
        """End a job that is to be cancelled, pause one that is to pause, else queue it again.

        Gives its status; `reason` is told of one that is queued. Raises LeaseLost.
        """
        job = await self.held(job_id, token)
        await self._put_down(job, reason)
        return job.status

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
                created_at=self.now(),
                level=level,
                type="message" if data is None else "metrics",
                message=message,
                data=data,
            )
        )

    async def end(self, job: JobRow, action: Action) -> None:
        """End a job that this transaction has loaded, with its closing event and its webhooks."""
        job.status = lifecycle.apply(job.status, action)
        await self._account(job)
        job.finished_at = self.now()
        job.lease_owner = job.lease_expires_at = job.estimated_finish = None
        if action is Action.FAIL:
            self.tell(job, f"The job failed: {job.error_message}", level="error")
        elif action is Action.CANCEL:
            self.tell(job, "The job was cancelled")
        else:
            self.tell(job, f"The job has successfully completed: {job.fine_tuned_model}")
        told = f"fine_tuning.job.{job.status}"
        await Outbox(self.session).put(job.tenant_id, told, job.id, job.finished_at)

    async def _account(self, job: JobRow) -> None:
        """Add to the usage what is new of a job's trained tokens: steps made again are not."""
        new = (job.trained_tokens or 0) - job.accounted_tokens
        if new > 0:
            counter = Counter(
                job.tenant_id, "trained", job.key_id or "", job.adapter, job.id, job.model
            )
            day, amount = day_of(self.now()), Amount(output_tokens=new)
            await UsageRepository(self.session).add(counter, day, amount)
            job.accounted_tokens += new

    async def _begin(self, job: JobRow, owner: str, lease_seconds: float) -> JobRow:
        resumed = job.started_at is not None
        self.lease(job, owner, lease_seconds)
        self.tell(job, "Resumed after an interruption" if resumed else "Fine-tuning job started")
        await self.session.flush()
        return job

    async def _put_down(self, job: JobRow, reason: str = "") -> None:
        action = lifecycle.put_down(standing(job))
        if action is Action.CANCEL:
            await self.end(job, action)
            return
        self.give_back(job, lifecycle.apply(job.status, action))
        job.pause_requested = False
        job.estimated_finish = None
        self.tell(job, "The job was paused" if action is Action.PAUSE else reason)

    async def _give_up(self, job: JobRow) -> None:
        job.error_code = "runtime_crashed"
        job.error_message = f"The training process died {job.attempts} times without progress"
        await self.end(job, Action.FAIL)


def standing(job: JobRow) -> Standing:
    """Give what the lifecycle knows of a job."""
    return Standing(Status(job.status), job.cancel_requested, job.pause_requested)


_ENDINGS = {"succeeded": Action.SUCCEED, "failed": Action.FAIL, "cancelled": Action.CANCEL}
