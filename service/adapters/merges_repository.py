"""The rows of merges. Tenants see their own only; runtimes see all, under a lease."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.leases import Leases
from service.database.models import FINISHED_JOBS, MergeRow
from service.database.pages import newest
from service.errors import NotFound

CRASHED = "merge_crashed"
MAX_ATTEMPTS = 3
"""Claims of a merge before it is given up."""


class MergeRepository(Leases[MergeRow]):
    """A tenant's merges; and, from Leases, the runtime's side."""

    def __init__(self, session: AsyncSession, clock: Callable[[], float] = time.time) -> None:
        super().__init__(session, MergeRow, clock)

    async def add(self, merge: MergeRow) -> None:
        """Keep a new merge."""
        self.session.add(merge)
        await self.session.flush()

    async def get(self, tenant_id: str, merge_id: str, *, lock: bool = False) -> MergeRow:
        """Find a tenant's merge; `lock` before changing it. Raises NotFound."""
        wanted = select(MergeRow).where(MergeRow.tenant_id == tenant_id, MergeRow.id == merge_id)
        row: MergeRow | None = await self.session.scalar(
            wanted.with_for_update() if lock else wanted
        )
        if row is None:
            message = f"The merge '{merge_id}' does not exist or you do not have access to it."
            raise NotFound(message, param="merge", code="merge_not_found")
        return row

    async def page(self, tenant_id: str, after: str | None, limit: int) -> Sequence[MergeRow]:
        """List merges, newest first; `after` is a merge's id."""
        mine = select(MergeRow).where(MergeRow.tenant_id == tenant_id)
        return await newest(self.session, mine, MergeRow, after, limit)

    async def remove(self, tenant_id: str, merge_id: str) -> None:
        """Forget a merge."""
        await self.session.execute(
            delete(MergeRow).where(MergeRow.tenant_id == tenant_id, MergeRow.id == merge_id)
        )

    async def claim(self, owner: str, lease_seconds: float) -> MergeRow | None:
        """Take a merge for `owner`; one whose process died MAX_ATTEMPTS times is ended."""
        while (merge := await self.next()) is not None:
            if merge.attempts < MAX_ATTEMPTS:
                self.lease(merge, owner, lease_seconds)
                return merge
            merge.error_code = CRASHED
            merge.error_message = f"The process that merged died {merge.attempts} times"
            self._end(merge, "failed")
            await self.session.flush()
        return None

    async def succeed(self, merge_id: str, token: int, result: dict[str, Any]) -> None:
        """End a merge whose files are published. Raises LeaseLost."""
        merge = await self.held(merge_id, token)
        merge.result, merge.bytes = result, result["bytes"]
        self._end(merge, "succeeded")

    async def fail(self, merge_id: str, token: int, code: str, message: str) -> None:
        """End a merge for a reason that trying again would not mend. Raises LeaseLost."""
        merge = await self.held(merge_id, token)
        merge.error_code, merge.error_message = code, message
        self._end(merge, "failed")

    async def requeue(self, merge_id: str, token: int) -> None:
        """Give the merge back: this runtime shuts down. Raises LeaseLost."""
        self.give_back(await self.held(merge_id, token))

    async def let_go(self, merge_id: str, owner: str) -> None:
        """Tell that nobody works any more on a merge that was ended under its holder."""
        mine = (MergeRow.id == merge_id, MergeRow.lease_owner == owner)
        await self.session.execute(
            update(MergeRow)
            .where(*mine, MergeRow.status.in_(FINISHED_JOBS))
            .values(lease_owner=None, lease_expires_at=None)
        )

    def cancel(self, merge: MergeRow) -> None:
        """End a merge that this transaction has loaded.

        Whoever holds it finds its lease lost, and lets go; until then, or until it lapses, the
        lease says that somebody works on it.
        """
        merge.status = "cancelled"
        merge.finished_at = self.now()

    def _end(self, merge: MergeRow, status: str) -> None:
        merge.status = status
        merge.finished_at = self.now()
        merge.lease_owner = merge.lease_expires_at = None
