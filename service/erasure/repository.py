"""The rows of erasures, and the rows that they erase."""

from collections.abc import Sequence

from sqlalchemy import Table, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.models import ApiKeyRow, AuditRow, ErasureRow, FileRow, JobRow, TenantRow
from service.database.pages import newest
from service.errors import NotFound
from service.wire import new_id, now

RUNNING, DONE = "running", "done"
AT_ONCE = 1000
"""Rows that one transaction erases: others want to write as well."""

# The audit holds ids only, and answers for what was done to the tenant.
_KEPT = (AuditRow.__table__, ErasureRow.__table__, TenantRow.__table__)
TABLES: Sequence[Table] = [
    table
    for table in reversed(ErasureRow.metadata.sorted_tables)
    if "tenant_id" in table.columns and table not in _KEPT
]
"""All that belongs to tenants; what refers to others comes before them."""


class ErasureRepository:
    """Reads and writes within one transaction."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def begin(self, tenant_id: str) -> ErasureRow:
        """Revoke a tenant's keys and note that it goes; once begun, find that. Raises NotFound."""
        tenant = select(TenantRow.id).where(TenantRow.id == tenant_id)
        if await self.session.scalar(tenant.with_for_update()) is None:
            raise NotFound(f"No such tenant: '{tenant_id}'.", param="tenant")
        if (begun := await self.of_tenant(tenant_id)) is not None:
            return begun
        active = update(ApiKeyRow).where(
            ApiKeyRow.tenant_id == tenant_id, ApiKeyRow.revoked_at.is_(None)
        )
        await self.session.execute(active.values(revoked_at=now()))
        row = ErasureRow(
            id=new_id("erasure_"), tenant_id=tenant_id, status=RUNNING, created_at=now()
        )
        self.session.add(row)
        await self.session.flush()
        return row

    async def of_tenant(self, tenant_id: str) -> ErasureRow | None:
        """Find the erasure that is running for a tenant."""
        row: ErasureRow | None = await self.session.scalar(
            select(ErasureRow).where(
                ErasureRow.tenant_id == tenant_id, ErasureRow.status == RUNNING
            )
        )
        return row

    async def get(self, erasure_id: str) -> ErasureRow:
        """Find an erasure; raises NotFound."""
        row: ErasureRow | None = await self.session.scalar(
            select(ErasureRow).where(ErasureRow.id == erasure_id)
        )
        if row is None:
            raise NotFound(f"No such erasure: '{erasure_id}'.", param="erasure_id")
        return row

    async def page(self, after: str | None, limit: int) -> Sequence[ErasureRow]:
        """List erasures, newest first. Raises BadRequest for an unknown `after`."""
        return await newest(self.session, select(ErasureRow), ErasureRow, after, limit)

    async def running(self) -> Sequence[ErasureRow]:
        """List what is not done, oldest first."""
        query = select(ErasureRow).where(ErasureRow.status == RUNNING).order_by(ErasureRow.seq)
        return (await self.session.scalars(query)).all()

    async def count(self, tenant_id: str) -> dict[str, int]:
        """Count a tenant's rows of each kind."""
        counted: dict[str, int] = {}
        for table in TABLES:
            query = select(func.count()).where(table.c.tenant_id == tenant_id)
            counted[table.name] = await self.session.scalar(query) or 0
        return dict(sorted(counted.items()))

    async def file_bytes(self, tenant_id: str) -> int:
        """Add up the bytes of a tenant's files."""
        query = select(func.coalesce(func.sum(FileRow.bytes), 0)).where(
            FileRow.tenant_id == tenant_id
        )
        return int(await self.session.scalar(query) or 0)

    async def job_ids(self, tenant_id: str) -> Sequence[str]:
        """List a tenant's jobs, whose working folders have their names."""
        query = select(JobRow.id).where(JobRow.tenant_id == tenant_id)
        return (await self.session.scalars(query)).all()

    async def erase_some(self, tenant_id: str, table: Table) -> bool:
        """Delete some of a tenant's rows; tells whether there may be more."""
        [key] = table.primary_key.columns
        some = select(key).where(table.c.tenant_id == tenant_id).limit(AT_ONCE)
        gone = await self.session.execute(delete(table).where(key.in_(some)))
        return bool(gone.rowcount)  # type: ignore[attr-defined]

    async def finish(self, erasure: ErasureRow) -> None:
        """Delete the tenant itself, so that its id is free, and note that nothing is left."""
        await self.session.execute(delete(TenantRow).where(TenantRow.id == erasure.tenant_id))
        row = await self.get(erasure.id)
        row.status, row.finished_at = DONE, now()
