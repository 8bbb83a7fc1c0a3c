"""The rows of fine-tuning jobs. Tenants see their own only; runtimes see all, under a lease."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Select, and_, func, select

from service.database.models import JobCheckpointRow, JobEventRow, JobRow
from service.database.pages import newest, place
from service.errors import NotFound
from service.jobs import lifecycle
from service.jobs.leases import JobLeases, LeaseLost, standing
from service.jobs.lifecycle import Action, Standing, Status

__all__ = ["JobRepository", "LeaseLost"]


class JobRepository(JobLeases):
    """A tenant's jobs, events and checkpoints; and, from JobLeases, the runtime's side."""

    async def add(self, job: JobRow) -> None:
        """Keep a new job."""
        self.session.add(job)
        await self.session.flush()

    async def get(self, tenant_id: str, job_id: str, *, lock: bool = False) -> JobRow:
        """Find a tenant's job; `lock` before changing it. Raises NotFound."""
        wanted = select(JobRow).where(JobRow.tenant_id == tenant_id, JobRow.id == job_id)
        job = await self.session.scalar(wanted.with_for_update() if lock else wanted)
        if job is None:
            raise _no_job(job_id)
        return job

    async def ask(self, job: JobRow, action: Action) -> None:
        """Do what a tenant asks of a job that this transaction has locked; see `lifecycle.ask`.

        Raises IllegalTransition.
        """
        before = standing(job)
        after = lifecycle.ask(before, action)
        if after == before:
            return
        job.pause_requested = after.pausing
        if after.status is Status.CANCELLED:
            await self.end(job, action)
        else:
            job.status, job.cancel_requested = after.status, after.cancelling
            self.tell(job, _ASKED[after])

    async def page(
        self, tenant_id: str, after: str | None, limit: int, metadata: Mapping[str, str] | None
    ) -> Sequence[JobRow]:
        """List jobs, newest first; `metadata` keeps those that carry all its pairs."""
        query = select(JobRow).where(JobRow.tenant_id == tenant_id)
        if not metadata:
            return await newest(self.session, query, JobRow, after, limit)
        if after is not None:
            query = query.where(JobRow.seq < await place(self.session, query, JobRow, after))
        # Keys are the tenant's own text, which no database's JSON path takes safely.
        found: list[JobRow] = []
        async for job in await self.session.stream_scalars(query.order_by(JobRow.seq.desc())):
            if metadata.items() <= (job.job_metadata or {}).items():
                found.append(job)
            if len(found) == limit:
                break
        return found

    async def events(
        self, tenant_id: str, job_id: str, after: str | None, limit: int
    ) -> Sequence[JobEventRow]:
        """List a job's events, newest first."""
        return await newest(self.session, _events(tenant_id, job_id), JobEventRow, after, limit)

    async def news(
        self, tenant_id: str, job_id: str, seq: int, limit: int
    ) -> tuple[Sequence[JobEventRow], str]:
        """List what came after the event numbered `seq`, oldest first, with the job's status.

        In one statement, so that an end and its closing event are seen together. Raises NotFound.
        """
        later = and_(JobEventRow.job_id == JobRow.id, JobEventRow.seq > seq)
        query = (
            select(JobRow.status, JobEventRow)
            .outerjoin(JobEventRow, later)
            .where(JobRow.tenant_id == tenant_id, JobRow.id == job_id)
            .order_by(JobEventRow.seq)
            .limit(limit)
        )
        found = (await self.session.execute(query)).all()
        if not found:
            raise _no_job(job_id)
        return [row for _, row in found if row is not None], found[0][0]

    async def last_event(self) -> int:
        """Tell the highest number of any tenant's event."""
        return await self.session.scalar(select(func.max(JobEventRow.seq))) or 0

    async def newest_events(self, after: int) -> Mapping[str, int]:
        """Tell the last event's number of each job, of any tenant, that has some after `after`."""
        query = select(JobEventRow.job_id, func.max(JobEventRow.seq))
        later = query.where(JobEventRow.seq > after).group_by(JobEventRow.job_id)
        return dict((await self.session.execute(later)).all())

    async def event_seq(self, tenant_id: str, job_id: str, event_id: str) -> int:
        """Find an event's place. Raises BadRequest if the job has no such event."""
        return await place(self.session, _events(tenant_id, job_id), JobEventRow, event_id)

    async def checkpoints(
        self, tenant_id: str, job_id: str, after: str | None, limit: int
    ) -> Sequence[JobCheckpointRow]:
        """List a job's checkpoints, newest first."""
        made = select(JobCheckpointRow).where(
            JobCheckpointRow.tenant_id == tenant_id, JobCheckpointRow.job_id == job_id
        )
        return await newest(self.session, made, JobCheckpointRow, after, limit)


_AT_NEXT = "was requested; training stops at its next step"
_ASKED = {
    Standing(Status.PAUSED): "The job was paused",
    Standing(Status.QUEUED): "The job was resumed, and is queued again",
    Standing(Status.RUNNING): "The pause was called off",
    Standing(Status.RUNNING, pausing=True): f"A pause {_AT_NEXT}",
    Standing(Status.RUNNING, cancelling=True): f"Cancellation {_AT_NEXT}",
}


def _events(tenant_id: str, job_id: str) -> Select[JobEventRow]:
    return select(JobEventRow).where(
        JobEventRow.tenant_id == tenant_id, JobEventRow.job_id == job_id
    )


def _no_job(job_id: str) -> NotFound:
    return NotFound(f"Could not find fine-tuning job: {job_id}", param="fine_tuning_job_id")
