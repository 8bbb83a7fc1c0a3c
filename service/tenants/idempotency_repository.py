"""The rows of first answers."""

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.models import IdempotencyRow
from service.wire import now

LIFETIME_SECONDS = 86_400


class IdempotencyRepository:
    """Reads and writes within one transaction. What is older than a day is not there."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def find(self, tenant_id: str, key: str) -> IdempotencyRow | None:
        """Find the answer that was given under a tenant's key."""
        row: IdempotencyRow | None = await self.session.scalar(
            select(IdempotencyRow).where(
                IdempotencyRow.tenant_id == tenant_id,
                IdempotencyRow.key == key,
                IdempotencyRow.created_at > now() - LIFETIME_SECONDS,
            )
        )
        return row

    async def add(self, row: IdempotencyRow) -> bool:
        """Keep an answer; False, and the transaction is lost, if the key has one already."""
        await self.session.flush()
        late = delete(IdempotencyRow).where(
            IdempotencyRow.tenant_id == row.tenant_id,
            IdempotencyRow.created_at <= now() - LIFETIME_SECONDS,
        )
        await self.session.execute(late)
        self.session.add(row)
        try:
            await self.session.flush()
        except IntegrityError:
            return False
        return True

    async def forget_old(self) -> None:
        """Forget every tenant's answers that are older than a day."""
        await self.session.execute(
            delete(IdempotencyRow).where(IdempotencyRow.created_at <= now() - LIFETIME_SECONDS)
        )
