"""Showing the audit: all of it to the operator, its own to a tenant."""

from collections.abc import Sequence

from service.database import Database
from service.database.models import AuditRow
from service.tenants.audit_repository import AuditRepository
from service.tenants.audit_schemas import AuditLine, AuditList
from service.tenants.repository import TenantRepository
from service.wire import page


class AuditService:
    """Reads the lines."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self, tenant_id: str | None, after: str | None, limit: int) -> AuditList:
        """List lines, newest first; of one tenant, which may be gone, or of all."""
        async with self._database.read() as session:
            rows = await AuditRepository(session).page(tenant_id, after, limit + 1)
        return _page(rows[:limit], has_more=len(rows) > limit)

    async def own(self, tenant_id: str, after: str | None, limit: int) -> AuditList:
        """List a tenant's own lines, newest first; none of one that had its name before it."""
        async with self._database.read() as session:
            tenant = await TenantRepository(session).get(tenant_id)
            lines = AuditRepository(session)
            rows = await lines.page(tenant_id, after, limit + 1, since=tenant.created_at)
        return _page(rows[:limit], has_more=len(rows) > limit)


def _page(rows: Sequence[AuditRow], *, has_more: bool) -> AuditList:
    return page(AuditList, [_shown(row) for row in rows], has_more=has_more)


def _shown(row: AuditRow) -> AuditLine:
    return AuditLine(
        id=row.id,
        object="audit.line",
        tenant=row.tenant_id,
        api_key_id=row.key_id,
        operation=row.operation,
        target=row.target,
        status=row.status,
        request_id=row.request_id,
        created_at=row.created_at,
    )
