"""Pages of a tenant's adapters and of an adapter's revisions, and what their names are."""

from collections.abc import Collection, Sequence

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.adapters.repository import Named
from service.database.models import AdapterRow, FineTunedModelRow, RevisionRow
from service.database.pages import newest


class AdapterRepository:
    """Reads only: adapters come to be with their first revision."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def find(self, tenant_id: str, adapter: str) -> AdapterRow | None:
        """Find an adapter by its name."""
        row: AdapterRow | None = await self.session.scalar(
            select(AdapterRow).where(AdapterRow.tenant_id == tenant_id, AdapterRow.name == adapter)
        )
        return row

    async def page(self, tenant_id: str, after: str | None, limit: int) -> Sequence[AdapterRow]:
        """List adapters, newest first; `after` is an adapter's id."""
        query = select(AdapterRow).where(AdapterRow.tenant_id == tenant_id)
        return await newest(self.session, query, AdapterRow, after, limit)

    async def newest(self, tenant_id: str, adapters: Collection[str]) -> dict[str, Named]:
        """Find the latest result of a job of each adapter; checkpoints do not count."""
        named = select(func.max(FineTunedModelRow.seq)).join(
            RevisionRow, RevisionRow.id == FineTunedModelRow.revision_id
        )
        last = named.where(
            RevisionRow.tenant_id == tenant_id,
            RevisionRow.adapter.in_(adapters),
            FineTunedModelRow.step.is_(None),
        ).group_by(RevisionRow.adapter)
        query = (
            select(FineTunedModelRow, RevisionRow)
            .join(RevisionRow, RevisionRow.id == FineTunedModelRow.revision_id)
            .where(FineTunedModelRow.seq.in_(last))
        )
        return {rev.adapter: (model, rev) for model, rev in await self.session.execute(query)}

    async def revisions(
        self, tenant_id: str, adapter: str, after: str | None, limit: int | None
    ) -> Sequence[RevisionRow]:
        """List an adapter's revisions, newest first; `after` is a revision's id."""
        query = select(RevisionRow).where(
            RevisionRow.tenant_id == tenant_id, RevisionRow.adapter == adapter
        )
        return await newest(self.session, query, RevisionRow, after, limit)

    async def named(
        self, tenant_id: str, revisions: Sequence[RevisionRow]
    ) -> dict[str, list[FineTunedModelRow]]:
        """Find the callable names of revisions, oldest first, by revision id."""
        query = select(FineTunedModelRow).where(
            FineTunedModelRow.tenant_id == tenant_id,
            FineTunedModelRow.revision_id.in_([row.id for row in revisions]),
        )
        found: dict[str, list[FineTunedModelRow]] = {row.id: [] for row in revisions}
        for model in await self.session.scalars(query.order_by(FineTunedModelRow.seq)):
            found[model.revision_id].append(model)
        return found

    async def named_of(self, tenant_id: str, adapter: str) -> dict[str, list[FineTunedModelRow]]:
        """Find the callable names of all of an adapter's revisions, by revision id."""
        query = (
            select(FineTunedModelRow)
            .join(RevisionRow, RevisionRow.id == FineTunedModelRow.revision_id)
            .where(RevisionRow.tenant_id == tenant_id, RevisionRow.adapter == adapter)
        )
        found: dict[str, list[FineTunedModelRow]] = {}
        for model in await self.session.scalars(query):
            found.setdefault(model.revision_id, []).append(model)
        return found

    async def by_digest(
        self, tenant_id: str, digest: str, adapter: str | None = None
    ) -> RevisionRow | None:
        """Find the revision of this content, of one adapter or of any of the tenant's."""
        query = select(RevisionRow).where(
            RevisionRow.tenant_id == tenant_id, RevisionRow.digest == digest
        )
        if adapter is not None:
            query = query.where(RevisionRow.adapter == adapter)
        row: RevisionRow | None = await self.session.scalar(query.order_by(RevisionRow.seq))
        return row
