"""The runtime's side of the jobs: claim one, write its story under the lease, end it."""

import time
from collections.abc import Callable
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.leases import MAX_ATTEMPTS, LeaseLost, Leases
from service.database.models import JobCheckpointRow, JobEventRow, JobRow
from service.jobs import lifecycle
from service.jobs.lifecycle import Action
from service.tenants.usage_counters import Amount, Counter, day_of
from service.tenants.usage_repository import UsageRepository
from service.webhooks.outbox import Outbox
from service.wire import new_id

__all__ = ["MAX_ATTEMPTS", "JobLeases", "LeaseLost"]

Level = Literal["info", "warn", "error"]


class JobLeases(Leases[JobRow]):
    """Jobs of all tenants, for runtimes. Use inside `Database.write()`."""

    def __init__(self, session: AsyncSession, clock: Callable[[], float] = time.time) -> None:
        super().__init__(session, JobRow, clock)

    async def claim(self, owner: str, lease_seconds: float) -> JobRow | None:
        """Take a job for `owner`: an interrupted one first, else a queued one, tenants in turn.

        Jobs found to be cancelled, or to have crashed their runtime MAX_ATTEMPTS times without
        progress between, are ended on the way. The row's `lease_token` fences later writes.
        """
        while (job := await self.next()) is not None:
            if job.cancel_requested:
                await self.end(job, Action.CANCEL)
            elif job.attempts >= MAX_ATTEMPTS:
                await self._give_up(job)
            else:
                return await self._begin(job, owner, lease_seconds)
            await self.session.flush()
        return None

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
        self.tell(await self.held(job_id, token), message, level=level, data=data)

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
        """Note how far training is; going beyond the farthest so far forgives earlier crashes.

        Raises LeaseLost.
        """
        job = await self.held(job_id, token)
        job.estimated_finish = estimated_finish
        if trained_tokens > (job.trained_tokens or 0):
            job.trained_tokens = trained_tokens
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
        await self._account(job)
        job.error_code, job.error_message, job.error_param = error_code, error_message, error_param
        await self.end(job, _ENDINGS[status])

    async def requeue(self, job_id: str, token: int) -> None:
        """Give the job back, to be resumed: this runtime shuts down. Raises LeaseLost."""
        job = await self.held(job_id, token)
        self.give_back(job)
        job.estimated_finish = None
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

    async def _give_up(self, job: JobRow) -> None:
        job.error_code = "runtime_crashed"
        job.error_message = f"The training process died {job.attempts} times without progress"
        await self.end(job, Action.FAIL)


_ENDINGS = {"succeeded": Action.SUCCEED, "failed": Action.FAIL, "cancelled": Action.CANCEL}
