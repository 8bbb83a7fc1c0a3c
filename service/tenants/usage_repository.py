"""The rows of usage: counters that only grow, each added to in the transaction of the work."""

from collections.abc import Collection, Sequence

import msgspec
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.inserts import insert
from service.database.models import ErasureRow, FineTunedModelRow, RevisionRow, TenantRow, UsageRow
from service.tenants.usage_counters import Amount, Counter, Kind

_KEY = ("tenant_id", "day", "kind", "key_id", "adapter", "digest")


class UsageRepository:
    """Use inside `Database.write()`; reading alone inside `Database.read()`."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def add(self, counter: Counter, day: int, amount: Amount) -> None:
        """Add to a counter; `day` is `day_of` the time. Whoever adds to several sorts them."""
        added = msgspec.structs.asdict(amount)
        statement = insert(self.session, UsageRow).values(
            **msgspec.structs.asdict(counter), day=day, **added
        )
        grown = {name: getattr(UsageRow, name) + more for name, more in added.items()}
        await self.session.execute(statement.on_conflict_do_update(index_elements=_KEY, set_=grown))

    async def spent(self, tenant_id: str, kind: Kind, since_day: int) -> int:
        """Add up the tokens that a tenant generated, or trained, since the beginning of a day."""
        query = select(func.coalesce(func.sum(UsageRow.output_tokens), 0)).where(
            UsageRow.tenant_id == tenant_id, UsageRow.kind == kind, UsageRow.day >= since_day
        )
        return int(await self.session.scalar(query) or 0)

    async def between(self, tenant_id: str, first_day: int, end: int) -> Sequence[UsageRow]:
        """List a tenant's counters of the days from `first_day` on, before `end`."""
        query = select(UsageRow).where(
            UsageRow.tenant_id == tenant_id, UsageRow.day >= first_day, UsageRow.day < end
        )
        return (await self.session.scalars(query.order_by(UsageRow.day, UsageRow.seq))).all()

    async def revisions(self, tenant_id: str, job_ids: Collection[str]) -> dict[str, str]:
        """Find the digests of what jobs made, by job; of those that made something still there."""
        query = (
            select(FineTunedModelRow.job_id, RevisionRow.digest)
            .join(RevisionRow, RevisionRow.id == FineTunedModelRow.revision_id)
            .where(
                FineTunedModelRow.tenant_id == tenant_id,
                FineTunedModelRow.job_id.in_(job_ids),
                FineTunedModelRow.step.is_(None),
            )
        )
        return {job: digest for job, digest in await self.session.execute(query) if job is not None}

    async def staying(self, tenant_ids: Collection[str]) -> frozenset[str]:
        """Find which tenants are there to stay, and hold them: an erasure waits for this."""
        erasing = select(ErasureRow.tenant_id).where(ErasureRow.status == "running")
        query = select(TenantRow.id).where(TenantRow.id.in_(tenant_ids))
        held = frozenset(await self.session.scalars(query.with_for_update(read=True)))
        return held - frozenset(await self.session.scalars(erasing))
