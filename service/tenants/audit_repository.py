"""The rows of the audit: added, never changed but for a status that was presumed."""

from collections.abc import Sequence

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.models import AuditRow
from service.database.pages import newest


class AuditRepository:
    """Reads and writes within one transaction."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def add(self, row: AuditRow) -> None:
        """Keep a line."""
        self.session.add(row)
        await self.session.flush()

    async def correct(self, line_id: str, status: int) -> None:
        """Put right how a request was answered."""
        await self.session.execute(
            update(AuditRow).where(AuditRow.id == line_id).values(status=status)
        )

    async def page(
        self, tenant_id: str | None, after: str | None, limit: int, since: int = 0
    ) -> Sequence[AuditRow]:
        """List lines, newest first: of one tenant, or all. Raises BadRequest for `after`."""
        query = select(AuditRow).where(AuditRow.created_at >= since)
        if tenant_id is not None:
            query = query.where(AuditRow.tenant_id == tenant_id)
        return await newest(self.session, query, AuditRow, after, limit)
