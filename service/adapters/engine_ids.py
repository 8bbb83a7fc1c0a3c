"""The numbers by which engines know revisions: made once, and never given to another."""

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from adapters_store import RevisionRef
from service.database.models import EngineIdRow


class EngineIds:
    """Rows are added and never changed: also of what was deleted, should it come again."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def find(self, ref: RevisionRef) -> int | None:
        """Give a revision's number, if it has one."""
        number: int | None = await self.session.scalar(
            select(EngineIdRow.id).where(
                EngineIdRow.tenant_id == ref.tenant,
                EngineIdRow.adapter == ref.adapter,
                EngineIdRow.digest == ref.digest,
            )
        )
        return number

    async def ensure(self, ref: RevisionRef) -> int:
        """Give a revision's number, making it if need be."""
        found = await self.find(ref)
        if found is not None:
            return found
        row = EngineIdRow(tenant_id=ref.tenant, adapter=ref.adapter, digest=ref.digest)
        try:
            async with self.session.begin_nested():
                self.session.add(row)
        except IntegrityError:
            # Another writer made it just now; where that is not why, there is still none.
            if (theirs := await self.find(ref)) is not None:
                return theirs
            raise
        return row.id
