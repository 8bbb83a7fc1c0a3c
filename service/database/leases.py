"""Work that one process at a time holds: claimed, kept by heartbeats, freed when they fail.

Every write names the lease's token. A claim or a release counts the token up, so whoever lost the
lease meanwhile is refused, however late the write arrives.
"""

import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Select, Subquery, and_, case, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.models import Leased, TenantRow

QUEUED, RUNNING = "queued", "running"

Row = TypeVar("Row", bound=Leased)


class LeaseLost(Exception):
    """The work is no longer this runtime's: another claimed it, or it has ended."""


class Leases(Generic[Row]):
    """One kind of work of all tenants, for runtimes. Use inside `Database.write()`."""

    first: tuple[ColumnElement[Any], ...] = ()
    """Which of a tenant's queued work comes before what came earlier."""

    def __init__(
        self, session: AsyncSession, kind: type[Row], clock: Callable[[], float] = time.time
    ) -> None:
        self.session = session
        self.kind = kind
        self.clock = clock

    async def heartbeat(self, row_id: str, token: int, lease_seconds: float) -> bool:
        """Keep the lease; tell whether the tenant asked to stop. Raises LeaseLost."""
        row = await self.held(row_id, token)
        row.lease_expires_at = self.clock() + lease_seconds
        return row.wants_to_stop

    async def release_owner(self, owner: str) -> int:
        """Make a dead runtime's work claimable at once; return how much it is."""
        mine = (self.kind.lease_owner == owner, self.kind.status == RUNNING)
        rows = (await self.session.scalars(select(self.kind).where(*mine).with_for_update())).all()
        for row in rows:
            _free(row)
        return len(rows)

    async def release(self, row_id: str, token: int, rest: Callable[[int], float]) -> None:
        """Let go of work after a fault: claimable after the `rest` that so many attempts need.

        Raises LeaseLost.
        """
        row = await self.held(row_id, token)
        _free(row)
        row.not_before = self.clock() + rest(row.attempts)

    async def held(self, row_id: str, token: int) -> Row:
        """Find the row, to be changed by who holds it. Raises LeaseLost."""
        mine = (self.kind.id == row_id, self.kind.lease_token == token)
        row: Row | None = await self.session.scalar(
            select(self.kind).where(*mine, self.kind.status == RUNNING).with_for_update()
        )
        if row is None:
            raise LeaseLost(f"{row_id} is no longer held under token {token}")
        return row

    async def next(self) -> Row | None:
        """Find what to do: what was interrupted first, else what is queued, tenants in turn."""
        query = _claimable(self.kind, self.clock(), self.first)
        row: Row | None = await self.session.scalar(query)
        return row

    def lease(self, row: Row, owner: str, lease_seconds: float) -> None:
        """Give work that `next` found to `owner`."""
        row.status = RUNNING
        row.started_at = row.started_at or self.now()
        row.attempts += 1
        row.lease_owner = owner
        row.lease_token += 1
        row.lease_expires_at = self.clock() + lease_seconds
        row.not_before = None

    def give_back(self, row: Row, status: str = QUEUED) -> None:
        """Put held work down, queued again: an orderly end is no crash."""
        row.status = status
        row.lease_owner = row.lease_expires_at = None
        row.attempts = max(0, row.attempts - 1)

    def now(self) -> int:
        """Unix time in whole seconds."""
        return int(self.clock())


def _free(row: Leased) -> None:
    row.lease_owner = None
    row.lease_expires_at = 0.0
    row.lease_token += 1


def _claimable(kind: type[Row], at: float, first: tuple[ColumnElement[Any], ...]) -> Select[Row]:
    waiting = free(kind, at)
    turns = _turns(kind, waiting, live(kind, at))
    # What was begun comes first; then whose work runs least for the tenant's weight, and whose
    # turn is longest ago.
    share = turns.c.running / TenantRow.weight
    order = (case((kind.status == RUNNING, 0), else_=1), share, turns.c.last, *first, kind.seq)
    return (
        select(kind)
        .join(turns, turns.c.tenant_id == kind.tenant_id)
        .join(TenantRow, TenantRow.id == kind.tenant_id)
        .where(waiting)
        .order_by(*order)
        .limit(1)
        .with_for_update(skip_locked=True, of=kind)
        .execution_options(populate_existing=True)
    )


def live(kind: type[Row], at: float) -> ColumnElement[bool]:
    """Tell whether somebody works on it."""
    return and_(kind.status == RUNNING, ~_silent(kind, at))


def free(kind: type[Row], at: float) -> ColumnElement[bool]:
    """Tell whether it waits for somebody: queued or interrupted, and rested."""
    rested = or_(kind.not_before.is_(None), kind.not_before <= at)
    interrupted = and_(kind.status == RUNNING, _silent(kind, at))
    return and_(or_(kind.status == QUEUED, interrupted), rested)


def _silent(kind: type[Row], at: float) -> ColumnElement[bool]:
    return or_(kind.lease_expires_at.is_(None), kind.lease_expires_at < at)


def _turns(kind: type[Row], free: ColumnElement[bool], live: ColumnElement[bool]) -> Subquery:
    """Count each waiting tenant's running work, and find when some of it was last begun."""
    # Only of tenants that wait: claims are tried often, and mostly nothing waits.
    waiting = select(kind.tenant_id).where(free)
    return (
        select(
            kind.tenant_id,
            func.sum(case((live, 1), else_=0)).label("running"),
            func.coalesce(func.max(kind.started_at), 0).label("last"),
        )
        .where(kind.tenant_id.in_(waiting))
        .group_by(kind.tenant_id)
        .subquery()
    )
