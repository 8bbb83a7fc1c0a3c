"""What the operator has pinned, whoever's it is: for the admin key, and for the runtime."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from adapters_store import RevisionRef
from service.database.models import RevisionRow
from service.errors import Conflict
from service.tenants.quotas import Quotas, Use


class PinRepository:
    """Pins are a column of revisions, and go with them."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def pinned(self) -> Sequence[RevisionRow]:
        """List all that is pinned, the oldest revision first."""
        query = select(RevisionRow).where(RevisionRow.pinned).order_by(RevisionRow.seq)
        return (await self.session.scalars(query)).all()

    async def set(self, revision: RevisionRow, pinned: bool, places: int, quotas: Quotas) -> None:
        """Pin a revision, or do not.

        Raises QuotaExceeded, and Conflict unless a place is left for the others.
        """
        if pinned and not revision.pinned:
            await quotas.admit(self.session, revision.tenant_id, Use(resident_adapters=1))
        others = [row for row in await self.pinned() if row.seq != revision.seq]
        if pinned and len(others) + 1 >= places:
            message = (
                f"No more than {places - 1} can be pinned: one of the {places} places "
                "(LOREHOUSE_MAX_RESIDENT_ADAPTERS) is for what is not. Unpin one first."
            )
            raise Conflict(message, param="pinned", code="too_many_pins")
        revision.pinned = pinned
        await self.session.flush()


def ref_of(revision: RevisionRow) -> RevisionRef:
    """Address a row's files."""
    return RevisionRef(revision.tenant_id, revision.adapter, revision.digest)
