"""Ending a tenant's unfinished work: asked to let go, and ended here where nobody has it."""

import time

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.models import FINISHED_JOBS, JobRow, MergeRow
from service.jobs.lifecycle import Action, Status
from service.jobs.repository import JobRepository


async def end_work(session: AsyncSession, tenant_id: str) -> bool:
    """Ask for the end of all that is under way; tells whether somebody still works on some of it.

    A runtime lets go of a job at its next step. One that died lets go when its lease expires.
    """
    return bool(await _end_jobs(session, tenant_id) + await _end_merges(session, tenant_id))


async def _end_jobs(session: AsyncSession, tenant_id: str) -> int:
    jobs, held = JobRepository(session), 0
    unfinished = select(JobRow).where(
        JobRow.tenant_id == tenant_id, JobRow.status.not_in(FINISHED_JOBS)
    )
    for job in (await session.scalars(unfinished.with_for_update())).all():
        if job.status == Status.RUNNING and _live(job):
            job.cancel_requested = True
            held += 1
        else:
            job.lease_token += 1
            await jobs.end(job, Action.CANCEL)
    return held


async def _end_merges(session: AsyncSession, tenant_id: str) -> int:
    """Fence merges off: whoever works on one is refused its next heartbeat, and stops."""
    query = select(MergeRow).where(MergeRow.tenant_id == tenant_id)
    merges = (await session.scalars(query.with_for_update())).all()
    for merge in merges:
        if merge.status not in FINISHED_JOBS:
            merge.status = Status.CANCELLED
            merge.lease_token += 1
    return sum(map(_live, merges))


def _live(row: JobRow | MergeRow) -> bool:
    return row.lease_expires_at is not None and row.lease_expires_at > time.time()
