"""Quotas: compared purely, and checked in the transaction that creates what they bound.

There they hold between API processes too: whoever adds to what a limit bounds holds the tenant's
row, and counts what is there only then.
"""

import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.models import TenantRow
from service.errors import QuotaExceeded
from service.tenants import used
from service.tenants.limits import NONE, Limits, resolve
from service.tenants.repository import hold
from service.tenants.usage_counters import day_of


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """How much there is, or is asked for, of what quotas bound; named as the limits are."""

    stored_bytes: int = 0
    files: int = 0
    queued_jobs: int = 0
    running_jobs: int = 0
    trained_tokens_per_month: int = 0
    adapters: int = 0
    resident_adapters: int = 0
    generated_tokens_per_day: int = 0


class Excess(msgspec.Struct, frozen=True):
    """A quota that would be exceeded."""

    quota: str
    limit: int
    used: int
    asked: int

    @property
    def message(self) -> str:
        """Say so with the figures."""
        return (
            f"You exceeded your quota '{self.quota}': its limit is {self.limit}, {self.used} are "
            f"used, and this request needs {self.asked} more."
        )

    @property
    def error(self) -> QuotaExceeded:
        """Make the error of it."""
        return QuotaExceeded(self.message, msgspec.structs.asdict(self))


def first_excess(limits: Limits, used: Use, asked: Use) -> Excess | None:
    """Find a quota that what is asked for would exceed; what is not asked for never is."""
    for quota in bounded(limits, asked):
        limit, there, more = (getattr(of, quota) for of in (limits, used, asked))
        if there + more > limit:
            return Excess(quota, limit, there, more)
    return None


def bounded(limits: Limits, asked: Use) -> list[str]:
    """List the quotas that have a limit and are asked something of."""
    return [
        name
        for name in Use.__struct_fields__
        if getattr(asked, name) and getattr(limits, name) is not None
    ]


def month_of(at: float) -> int:
    """Give the first second of the month, in UTC."""
    day = datetime.fromtimestamp(at, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return int(day.timestamp())


class Quotas:
    """Every tenant's, over the server's `defaults`."""

    def __init__(
        self, defaults: Limits | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.defaults = defaults or NONE
        self.clock = clock

    async def limits(self, session: AsyncSession, tenant_id: str) -> Limits:
        """Find what holds for a tenant."""
        own = await session.scalar(select(TenantRow.limits).where(TenantRow.id == tenant_id))
        return resolve(self.defaults, own)

    async def admit(
        self, session: AsyncSession, tenant_id: str, asked: Use, *, adapter: str | None = None
    ) -> None:
        """Let a tenant have more, in the transaction that adds it; call it before any other write.

        `adapter` counts as one more unless there is one of that name. Raises QuotaExceeded.
        """
        await self._check(session, tenant_id, asked, adapter, lock=True)

    async def may_run(self, session: AsyncSession, tenant_id: str) -> bool:
        """Tell whether one more job of the tenant may run, in the transaction that claims it."""
        one = Use(running_jobs=1)
        try:
            # First without the tenant's row: a claim passes many tenants, in any order.
            await self.glance(session, tenant_id, one)
            await self.admit(session, tenant_id, one)
        except QuotaExceeded:
            return False
        return True

    async def glance(
        self, session: AsyncSession, tenant_id: str, asked: Use, *, adapter: str | None = None
    ) -> None:
        """Raise QuotaExceeded as `admit` would now, before much is done for it."""
        await self._check(session, tenant_id, asked, adapter, lock=False)

    async def use(
        self, session: AsyncSession, tenant_id: str, wanted: Collection[str] = Use.__struct_fields__
    ) -> Use:
        """Count what the `wanted` quotas bound; the others stay 0."""
        now = self.clock()
        at = used.At(now, month_of(now), day_of(now))
        return Use(**{name: await used.COUNTS[name](session, tenant_id, at) for name in wanted})

    async def with_adapter(
        self, session: AsyncSession, tenant_id: str, asked: Use, adapter: str
    ) -> Use:
        """Ask for one adapter more, unless there is one of that name."""
        known = await used.has_adapter(session, tenant_id, adapter)
        return msgspec.structs.replace(asked, adapters=0 if known else 1)

    async def _check(
        self, session: AsyncSession, tenant_id: str, asked: Use, adapter: str | None, *, lock: bool
    ) -> None:
        limits = await self.limits(session, tenant_id)
        most = asked if adapter is None else msgspec.structs.replace(asked, adapters=1)
        if not bounded(limits, most):
            return
        if lock:
            await hold(session, tenant_id)
        if adapter is not None:
            asked = await self.with_adapter(session, tenant_id, asked, adapter)
        there = await self.use(session, tenant_id, bounded(limits, asked))
        if (excess := first_excess(limits, there, asked)) is not None:
            raise excess.error
