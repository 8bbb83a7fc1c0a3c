"""How many generations a tenant has at once, over all API processes.

A process holds places in a row of its own, that lapses when it dies. It keeps a few more than it
needs, unless there are few: then each goes back at once, for whoever asks next.
"""

import asyncio
import time
from collections.abc import Callable

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.database import Database
from service.database.inserts import insert
from service.database.models import PlaceRow
from service.tenants.portions import portion, surplus
from service.tenants.repository import hold

LAPSE_SECONDS = 30.0
RENEW_SECONDS = 10.0


class Lane:
    """One tenant's places of this process."""

    def __init__(self) -> None:
        self.busy = 0
        self.held = 0
        self.limit = 0
        self.used = False
        self.renewed = 0.0
        self.changing = asyncio.Lock()

    @property
    def extra(self) -> int:
        """Places that should be somebody else's."""
        return surplus(self.limit, self.held - self.busy)


class Places:
    """Of all tenants, for one process, that `holder` names."""

    def __init__(
        self, database: Database, holder: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._holder = holder
        self._clock = clock
        self._lanes: dict[str, Lane] = {}

    async def enter(self, tenant_id: str, limit: int) -> bool:
        """Take a place; tells whether there was one. Who got one calls `leave`, once."""
        lane = self._lanes.setdefault(tenant_id, Lane())
        lane.limit = limit
        if lane.busy >= min(lane.held, limit):
            async with lane.changing:
                if lane.busy >= min(lane.held, limit):
                    await self._hold_more(tenant_id, lane)
            if lane.busy >= min(lane.held, limit):
                return False
        lane.busy += 1
        lane.used = True
        return True

    async def leave(self, tenant_id: str) -> None:
        """Give a place up; it is free for every process when this returns, if it should be."""
        lane = self._lanes[tenant_id]
        lane.busy -= 1
        if lane.extra:
            await self._give_back(tenant_id, lane, idle=False)

    async def settle(self, *, all_of_it: bool = False) -> None:
        """Give back what was not used since the last time, and keep the rest from lapsing."""
        for tenant_id, lane in list(self._lanes.items()):
            idle, lane.used = all_of_it or not (lane.used or lane.busy), False
            late = self._clock() - lane.renewed > RENEW_SECONDS
            if lane.held and (idle or lane.extra or late):
                await self._give_back(tenant_id, lane, idle=idle)
            if not lane.held and not lane.busy and not lane.changing.locked():
                del self._lanes[tenant_id]

    async def _hold_more(self, tenant_id: str, lane: Lane) -> None:
        # Looked at before: who is refused must not keep those waiting that write.
        async with self._database.read() as session:
            if lane.busy >= lane.limit - await self._others(session, tenant_id):
                return
        async with self._database.write() as session:
            await hold(session, tenant_id)
            others = await self._others(session, tenant_id)
            busy = lane.busy
            if more := portion(lane.limit, others + busy, 1):
                await self._write(session, tenant_id, lane, busy + more)
        if more:
            lane.held = busy + more

    async def _give_back(self, tenant_id: str, lane: Lane, *, idle: bool) -> None:
        async with lane.changing:
            # First here: nobody enters on a place that is being given away.
            lane.held = lane.busy if idle else lane.held - lane.extra
            async with self._database.write() as session:
                await self._write(session, tenant_id, lane, lane.held)

    async def _others(self, session: AsyncSession, tenant_id: str) -> int:
        query = select(func.coalesce(func.sum(PlaceRow.held), 0)).where(
            PlaceRow.tenant_id == tenant_id,
            PlaceRow.holder != self._holder,
            PlaceRow.expires_at > self._clock(),
        )
        return int(await session.scalar(query) or 0)

    async def _write(self, session: AsyncSession, tenant_id: str, lane: Lane, held: int) -> None:
        mine = (PlaceRow.tenant_id == tenant_id, PlaceRow.holder == self._holder)
        lane.renewed = self._clock()
        if not held:
            await session.execute(delete(PlaceRow).where(*mine))
            return
        row = {"held": held, "expires_at": lane.renewed + LAPSE_SECONDS}
        new = insert(session, PlaceRow).values(tenant_id=tenant_id, holder=self._holder, **row)
        await session.execute(
            new.on_conflict_do_update(index_elements=["tenant_id", "holder"], set_=row)
        )
