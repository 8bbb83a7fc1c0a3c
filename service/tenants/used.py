"""How much a tenant has of what quotas bound, counted in the caller's transaction."""

from collections.abc import Awaitable, Callable, Mapping

import msgspec
from sqlalchemy import ColumnElement, CompoundSelect, exists, func, select, union
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.leases import live
from service.database.models import (
    FINISHED_JOBS,
    AdapterRow,
    FileRow,
    JobRow,
    MergeRow,
    RevisionRow,
    UploadRow,
)
from service.tenants.usage_repository import UsageRepository


class At(msgspec.Struct, frozen=True):
    """A time, and the first seconds of its month and day, in UTC."""

    now: float
    month: int
    day: int


Count = Callable[[AsyncSession, str, At], Awaitable[int]]


async def has_adapter(session: AsyncSession, tenant_id: str, adapter: str) -> bool:
    """Tell whether there is an adapter of that name, or will be when a job has ended."""
    named = _adapters(tenant_id).subquery()
    return bool(await session.scalar(select(exists().where(named.c.name == adapter))))


def job_tokens(file_tokens: int | None, epochs: int) -> int:
    """Estimate, from above, how many tokens a job trains: examples may be cut or held out."""
    return (file_tokens or 0) * epochs


async def _stored_bytes(session: AsyncSession, tenant_id: str, _: At) -> int:
    made = (MergeRow.tenant_id == tenant_id, MergeRow.status.not_in(("failed", "cancelled")))
    sums = (
        select(func.sum(FileRow.bytes)).where(FileRow.tenant_id == tenant_id),
        select(func.sum(UploadRow.bytes)).where(*_arriving(tenant_id)),
        select(func.sum(RevisionRow.bytes)).where(RevisionRow.tenant_id == tenant_id),
        select(func.sum(MergeRow.bytes)).where(*made),
    )
    return sum([int(await session.scalar(query) or 0) for query in sums])


async def _files(session: AsyncSession, tenant_id: str, _: At) -> int:
    there = select(func.count()).where(FileRow.tenant_id == tenant_id)
    coming = select(func.count()).where(*_arriving(tenant_id))
    return (await session.scalar(there) or 0) + (await session.scalar(coming) or 0)


async def _queued_jobs(session: AsyncSession, tenant_id: str, _: At) -> int:
    waiting = JobRow.status.not_in([*FINISHED_JOBS, "running"])
    query = select(func.count()).where(JobRow.tenant_id == tenant_id, waiting)
    return await session.scalar(query) or 0


async def _running_jobs(session: AsyncSession, tenant_id: str, at: At) -> int:
    query = select(func.count()).where(JobRow.tenant_id == tenant_id, live(JobRow, at.now))
    return await session.scalar(query) or 0


async def _adapters_of(session: AsyncSession, tenant_id: str, _: At) -> int:
    query = select(func.count()).select_from(_adapters(tenant_id).subquery())
    return await session.scalar(query) or 0


async def _resident_adapters(session: AsyncSession, tenant_id: str, _: At) -> int:
    query = select(func.count()).where(RevisionRow.tenant_id == tenant_id, RevisionRow.pinned)
    return await session.scalar(query) or 0


async def _trained_tokens(session: AsyncSession, tenant_id: str, at: At) -> int:
    """Add what this month's training took and what unfinished jobs may still take."""
    accepted = await session.execute(
        select(FileRow.tokens, JobRow.spec, JobRow.accounted_tokens)
        .join(FileRow, FileRow.id == JobRow.training_file)
        .where(JobRow.tenant_id == tenant_id, JobRow.status.not_in(FINISHED_JOBS))
    )
    to_come = sum(
        max(0, job_tokens(tokens, spec["n_epochs"]) - accounted)
        for tokens, spec, accounted in accepted
    )
    return await UsageRepository(session).spent(tenant_id, "trained", at.month) + to_come


async def generated_since(session: AsyncSession, tenant_id: str, day: int) -> int:
    """Add up what was generated since the beginning of a day."""
    return await UsageRepository(session).spent(tenant_id, "generated", day)


async def _generated_tokens(session: AsyncSession, tenant_id: str, at: At) -> int:
    return await generated_since(session, tenant_id, at.day)


COUNTS: Mapping[str, Count] = {
    "stored_bytes": _stored_bytes,
    "files": _files,
    "queued_jobs": _queued_jobs,
    "running_jobs": _running_jobs,
    "trained_tokens_per_month": _trained_tokens,
    "adapters": _adapters_of,
    "resident_adapters": _resident_adapters,
    "generated_tokens_per_day": _generated_tokens,
}
"""By the quotas' names."""


def _arriving(tenant_id: str) -> tuple[ColumnElement[bool], ...]:
    """Uploads under way have the room that they announced, whatever has come of them."""
    return UploadRow.tenant_id == tenant_id, UploadRow.status == "pending"


def _adapters(tenant_id: str) -> CompoundSelect[str]:
    there = select(AdapterRow.name.label("name")).where(AdapterRow.tenant_id == tenant_id)
    coming = select(JobRow.adapter.label("name")).where(
        JobRow.tenant_id == tenant_id, JobRow.status.not_in(FINISHED_JOBS)
    )
    return union(there, coming)
