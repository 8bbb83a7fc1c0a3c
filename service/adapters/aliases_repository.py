"""The versions of a tenant's aliases: the newest of each is what it names."""

from collections.abc import Collection, Sequence

import msgspec
from sqlalchemy import Select, func, null, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.adapters.weights import WeightedTarget
from service.database.models import AdapterRow, AliasVersionRow
from service.wire import now


class AliasRepository:
    """Rows only; a version is added under the adapter's lock, which `lock` takes."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def lock(self, tenant_id: str, adapter: str) -> bool:
        """Let one writer at a time change an adapter's aliases; tell whether there is such one."""
        query = select(AdapterRow.seq).where(
            AdapterRow.tenant_id == tenant_id, AdapterRow.name == adapter
        )
        return await self.session.scalar(query.with_for_update()) is not None

    async def version(
        self, tenant_id: str, adapter: str, alias: str, number: int | None = None
    ) -> AliasVersionRow | None:
        """Find a version, by default the newest; deletions are versions too."""
        query = _of(tenant_id, adapter, alias)
        if number is not None:
            query = query.where(AliasVersionRow.version == number)
        row: AliasVersionRow | None = await self.session.scalar(query.limit(1))
        return row

    async def current(self, tenant_id: str, adapter: str, alias: str) -> AliasVersionRow | None:
        """Find what an alias is now; None when there is none."""
        row = await self.version(tenant_id, adapter, alias)
        return None if row is None or row.targets is None else row

    async def history(
        self, tenant_id: str, adapter: str, alias: str, before: int | None, limit: int
    ) -> Sequence[AliasVersionRow]:
        """List an alias's versions, newest first, also of one that was deleted."""
        query = _of(tenant_id, adapter, alias)
        if before is not None:
            query = query.where(AliasVersionRow.version < before)
        return (await self.session.scalars(query.limit(limit))).all()

    async def of_adapters(
        self,
        tenant_id: str,
        adapters: Collection[str],
        after: str | None = None,
        limit: int | None = None,
    ) -> Sequence[AliasVersionRow]:
        """List the aliases that some adapters have now, by name."""
        newest = (
            select(func.max(AliasVersionRow.seq))
            .where(AliasVersionRow.tenant_id == tenant_id, AliasVersionRow.adapter.in_(adapters))
            .group_by(AliasVersionRow.adapter, AliasVersionRow.alias)
        )
        query = (
            select(AliasVersionRow)
            .where(AliasVersionRow.seq.in_(newest), AliasVersionRow.targets.is_not(null()))
            .order_by(AliasVersionRow.alias)
        )
        if after is not None:
            query = query.where(AliasVersionRow.alias > after)
        return (await self.session.scalars(query.limit(limit))).all()

    async def add(
        self,
        tenant_id: str,
        adapter: str,
        alias: str,
        targets: Sequence[WeightedTarget] | None,
        *,
        key_id: str | None,
        reason: str | None,
    ) -> AliasVersionRow:
        """Move an alias, making it if need be; no targets delete it. Call `lock` before."""
        last = await self.version(tenant_id, adapter, alias)
        row = AliasVersionRow(
            tenant_id=tenant_id,
            adapter=adapter,
            alias=alias,
            version=1 if last is None else last.version + 1,
            targets=None if targets is None else msgspec.to_builtins(targets),
            key_id=key_id,
            reason=reason,
            created_at=now(),
        )
        self.session.add(row)
        await self.session.flush()
        return row


def targets_of(row: AliasVersionRow) -> list[WeightedTarget]:
    """Read what a version names."""
    return msgspec.convert(row.targets or [], list[WeightedTarget])


def _of(tenant_id: str, adapter: str, alias: str) -> Select[AliasVersionRow]:
    return (
        select(AliasVersionRow)
        .where(
            AliasVersionRow.tenant_id == tenant_id,
            AliasVersionRow.adapter == adapter,
            AliasVersionRow.alias == alias,
        )
        .order_by(AliasVersionRow.version.desc())
    )
