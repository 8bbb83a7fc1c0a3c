"""The rows of a tenant's files. One that has expired is not there."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Select, and_, delete, exists, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.models import FINISHED_JOBS, FileRow, JobRow
from service.database.pages import place
from service.errors import Conflict, NotFound
from service.wire import now


class FileRepository:
    """Rows only: the bytes are in the data folder, and are there before a row speaks of them."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def add(self, file: FileRow) -> None:
        """Keep a new file's row."""
        self.session.add(file)
        await self.session.flush()

    async def get(self, tenant_id: str, file_id: str) -> FileRow:
        """Find a tenant's file; raises NotFound."""
        file = await self.session.scalar(_files(tenant_id).where(FileRow.id == file_id))
        if file is None:
            raise not_found(file_id)
        return file

    async def get_even_expired(self, tenant_id: str, file_id: str) -> FileRow:
        """Find a file for a job that was accepted while it was there; raises NotFound."""
        query = select(FileRow).where(FileRow.tenant_id == tenant_id, FileRow.id == file_id)
        file = await self.session.scalar(query)
        if file is None:
            raise not_found(file_id)
        return file

    async def page(
        self, tenant_id: str, *, purpose: str | None, after: str | None, limit: int, newest: bool
    ) -> Sequence[FileRow]:
        """List files, `newest` or oldest first, from behind the file `after`."""
        query = _files(tenant_id)
        if purpose is not None:
            query = query.where(FileRow.purpose == purpose)
        if after is not None:
            # Also behind one that has expired since it was seen.
            mine = select(FileRow).where(FileRow.tenant_id == tenant_id)
            seq = await place(self.session, mine, FileRow, after)
            query = query.where(FileRow.seq < seq if newest else FileRow.seq > seq)
        order = FileRow.seq.desc() if newest else FileRow.seq
        return (await self.session.scalars(query.order_by(order).limit(limit))).all()

    async def delete(self, tenant_id: str, file_id: str) -> None:
        """Forget a file. Raises NotFound, and Conflict while a job still needs it."""
        file = await self.get(tenant_id, file_id)
        needing = select(JobRow.id).join(FileRow, _needing_jobs()).where(FileRow.seq == file.seq)
        job = await self.session.scalar(needing.limit(1))
        if job is not None:
            raise Conflict(
                f"File {file_id} is used by the fine-tuning job {job}, which has not finished: "
                "cancel the job first",
                code="file_in_use",
            )
        await self.session.delete(file)

    async def forget_expired(self) -> list[tuple[str, str]]:
        """Forget every tenant's expired files that no job needs; returns (tenant, file id)."""
        needed = exists().where(_needing_jobs())
        query = delete(FileRow).where(FileRow.expires_at <= now(), ~needed)
        gone = await self.session.execute(query.returning(FileRow.tenant_id, FileRow.id))
        return [(tenant, file) for tenant, file in gone]

    async def known(self, tenant_id: str) -> frozenset[str]:
        """List the ids of all of a tenant's rows, expired ones too."""
        query = select(FileRow.id).where(FileRow.tenant_id == tenant_id)
        return frozenset(await self.session.scalars(query))


def not_found(file_id: str) -> NotFound:
    """Say the same of a file that never was, has gone, or is another tenant's."""
    return NotFound(f"No such File object: {file_id}", param="id")


def _files(tenant_id: str) -> Select[FileRow]:
    there = or_(FileRow.expires_at.is_(None), FileRow.expires_at > now())
    return select(FileRow).where(FileRow.tenant_id == tenant_id, there)


def _needing_jobs() -> ColumnElement[bool]:
    """Join a file to the jobs that are not done with it."""
    named = or_(JobRow.training_file == FileRow.id, JobRow.validation_file == FileRow.id)
    return and_(JobRow.tenant_id == FileRow.tenant_id, named, JobRow.status.not_in(FINISHED_JOBS))
