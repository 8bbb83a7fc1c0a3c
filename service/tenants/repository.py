"""Rows of tenants and keys. The one place that looks a row up without naming its tenant."""

from typing import Any

from sqlalchemy import Row, bindparam, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.database import Database
from service.database.models import ApiKeyRow, ErasureRow, TenantRow
from service.errors import Conflict, NotFound


async def hold(session: AsyncSession, tenant_id: str) -> None:
    """Keep others who call this from going on until the transaction ends.

    Rows that merely refer to the tenant's may come meanwhile, such as a running job's events.
    """
    query = select(TenantRow.id).where(TenantRow.id == tenant_id)
    await session.execute(query.with_for_update(key_share=True))


async def find_key(database: Database, digest: str) -> Row[Any] | None:
    """Find the key that was stored as this keyed hash, whoever's it is.

    With what decides on it come its tenant's own limits and its weight: every request asks, and
    once.
    """
    return next(iter(await database.ask(_BY_HASH, {"digest": digest})), None)


_BY_HASH = (
    select(ApiKeyRow.seq, ApiKeyRow.id, ApiKeyRow.tenant_id, ApiKeyRow.scopes)
    .add_columns(ApiKeyRow.revoked_at, ApiKeyRow.expires_at, ApiKeyRow.last_used_at)
    .add_columns(TenantRow.limits, TenantRow.weight)
    .join(TenantRow, TenantRow.id == ApiKeyRow.tenant_id)
    .where(ApiKeyRow.hash == bindparam("digest"))
)


class TenantRepository:
    """Reads and writes within one transaction."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def get(self, tenant_id: str) -> TenantRow:
        """Find a tenant; raises NotFound."""
        if (row := await self.session.get(TenantRow, tenant_id)) is None:
            raise NotFound(f"No such tenant: '{tenant_id}'.", param="tenant")
        return row

    async def present(self, tenant_id: str, *, hold: bool = False) -> TenantRow:
        """Find a tenant that stays; raises NotFound, and Conflict while it is being erased.

        `hold` it before adding to it: an erasure that begins now is seen here, or sees what is
        added.
        """
        if hold:
            query = select(TenantRow).where(TenantRow.id == tenant_id)
            await self.session.execute(query.with_for_update(read=True))
        row = await self.get(tenant_id)
        erasing = select(ErasureRow.seq).where(
            ErasureRow.tenant_id == tenant_id, ErasureRow.status == "running"
        )
        if await self.session.scalar(erasing) is not None:
            message = f"The tenant '{tenant_id}' is being erased."
            raise Conflict(message, param="tenant", code="tenant_being_erased")
        return row

    async def all(self) -> list[TenantRow]:
        """List all tenants, oldest first."""
        rows = await self.session.scalars(
            select(TenantRow).order_by(TenantRow.created_at, TenantRow.id)
        )
        return list(rows)

    async def add(self, row: TenantRow | ApiKeyRow) -> None:
        """Store a new row."""
        self.session.add(row)
        await self.session.flush()

    async def keys(self, tenant_id: str) -> list[ApiKeyRow]:
        """List a tenant's keys, oldest first."""
        rows = await self.session.scalars(
            select(ApiKeyRow).where(ApiKeyRow.tenant_id == tenant_id).order_by(ApiKeyRow.seq)
        )
        return [*rows]

    async def key(self, tenant_id: str, key_id: str) -> ApiKeyRow:
        """Find a tenant's key, to be changed; raises NotFound."""
        query = select(ApiKeyRow).where(ApiKeyRow.tenant_id == tenant_id, ApiKeyRow.id == key_id)
        row = await self.session.scalar(query.with_for_update())
        if row is None:
            raise NotFound(f"No such API key: '{key_id}'.", param="key_id")
        return row
