"""What tenants may use within a window of time, given out by the database to all API processes.

Windows are fixed: a minute's is the one on the clock. What a process has drawn and does not use
goes back within seconds; what it had when it was killed is lost to the tenant for that window.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.database import Database
from service.database.inserts import insert
from service.database.models import RateRow
from service.tenants.portions import portion, surplus

AGAIN_SECONDS = 1.0
"""How long what was refused is refused again without asking: others give back meanwhile."""


class Rate(msgspec.Struct, frozen=True):
    """One kind of thing that is used within windows of `seconds`."""

    kind: str
    seconds: int
    before: Callable[[AsyncSession, str, int], Awaitable[int]] | None = None
    """Counts what a tenant used in a window before anybody drew from it."""


class Purse:
    """What this process has of one window."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.limit = 0
        self.ready = 0
        self.given = 0
        """Drawn by all processes, when that was last seen."""
        self.used = False
        self.short = 0
        """So much was refused, until `again`."""
        self.again = 0.0


class Rates:
    """Of all tenants, in one process. Every change of a purse is between two awaits."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._purses: dict[tuple[str, Rate], Purse] = {}
        self._drawing: dict[tuple[str, Rate], asyncio.Lock] = {}

    async def take(self, tenant_id: str, rate: Rate, limit: int, amount: int) -> int | None:
        """Use some of the window that is now; returns it, or None when too little is left."""
        purse = self._purse(tenant_id, rate)
        purse.limit = limit
        if purse.ready < amount and not self._refused(purse, amount):
            async with self._drawing.setdefault((tenant_id, rate), asyncio.Lock()):
                # Again: others may use meanwhile what is ready.
                while purse.ready < amount and await self._draw(tenant_id, rate, purse, amount):
                    pass
        if purse.ready < amount:
            self._refuse(purse, amount)
            return None
        purse.ready -= amount
        purse.used = True
        return purse.window

    def give_back(self, tenant_id: str, rate: Rate, window: int, amount: int) -> None:
        """Return what was not used after all; nothing once the window is over."""
        purse = self._purse(tenant_id, rate)
        if purse.window == window:
            purse.ready += amount
            purse.again = 0.0

    def remaining(self, tenant_id: str, rate: Rate, limit: int) -> int:
        """Tell what is left, as far as this process knows."""
        purse = self._purse(tenant_id, rate)
        return max(0, limit - purse.given) + purse.ready

    def resets_in(self, rate: Rate) -> float:
        """Tell how many seconds the window has."""
        return rate.seconds - self._clock() % rate.seconds

    async def settle(self, *, all_of_it: bool = False) -> None:
        """Give the database back what lies ready and was not touched since the last time.

        Of what is in use, only what is more than a process should have.
        """
        for (tenant_id, rate), purse in list(self._purses.items()):
            if purse.window != self._window(rate):
                self._forget(tenant_id, rate)
                continue
            idle, purse.used = all_of_it or not purse.used, False
            extra = purse.ready if idle else surplus(purse.limit, purse.ready)
            if extra:
                purse.ready -= extra
                purse.given -= extra
                await self._return(tenant_id, rate, purse, extra)

    def _purse(self, tenant_id: str, rate: Rate) -> Purse:
        purse = self._purses.get((tenant_id, rate))
        if purse is None or purse.window != self._window(rate):
            purse = self._purses[tenant_id, rate] = Purse(self._window(rate))
        return purse

    def _window(self, rate: Rate) -> int:
        return int(self._clock()) // rate.seconds * rate.seconds

    def _forget(self, tenant_id: str, rate: Rate) -> None:
        del self._purses[tenant_id, rate]
        drawing = self._drawing.get((tenant_id, rate))
        if drawing is not None and not drawing.locked():
            del self._drawing[tenant_id, rate]

    def _refused(self, purse: Purse, amount: int) -> bool:
        return amount >= purse.short and self._clock() < purse.again

    def _refuse(self, purse: Purse, amount: int) -> None:
        if self._clock() >= purse.again or amount < purse.short:
            purse.short, purse.again = amount, self._clock() + AGAIN_SECONDS

    async def _draw(self, tenant_id: str, rate: Rate, purse: Purse, amount: int) -> int:
        async with self._database.write() as session:
            given = await self._given(session, tenant_id, rate, purse.window)
            drawn = portion(purse.limit, given, amount - purse.ready)
            if drawn:
                changed = update(RateRow).where(*_row(tenant_id, rate, purse.window))
                await session.execute(changed.values(used=given + drawn))
        purse.given = given + drawn
        purse.ready += drawn
        return drawn

    async def _given(self, session: AsyncSession, tenant_id: str, rate: Rate, window: int) -> int:
        """Find the window's row and hold it; the first of a window clears away the past ones."""
        found = select(RateRow.used).where(*_row(tenant_id, rate, window)).with_for_update()
        given = await session.scalar(found)
        if given is None:
            before = 0 if rate.before is None else await rate.before(session, tenant_id, window)
            new = insert(session, RateRow).values(
                tenant_id=tenant_id, kind=rate.kind, window=window, used=before
            )
            await session.execute(new.on_conflict_do_nothing())
            past = (RateRow.tenant_id == tenant_id, RateRow.kind == rate.kind)
            await session.execute(
                delete(RateRow).where(*past, RateRow.window < window - rate.seconds)
            )
            given = await session.scalar(found)
        return given or 0

    async def _return(self, tenant_id: str, rate: Rate, purse: Purse, extra: int) -> None:
        async with self._database.write() as session:
            changed = update(RateRow).where(*_row(tenant_id, rate, purse.window))
            await session.execute(changed.values(used=RateRow.used - extra))


def _row(tenant_id: str, rate: Rate, window: int) -> tuple[Any, ...]:
    return RateRow.tenant_id == tenant_id, RateRow.kind == rate.kind, RateRow.window == window
