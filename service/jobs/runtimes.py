"""What runtimes that train tell of themselves, for whoever plans a job."""

import time
from collections.abc import Callable

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.base.hardware import Hardware
from service.database.models import RuntimeRow
from service.training.spec import Method

KEPT_SECONDS = 30 * 86400
"""After its end: how quick it was is worth knowing when the next one has not trained yet."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One runtime's."""

    hardware: Hardware
    tokens_per_second: dict[Method, float]
    """That a job lately got, for each method that one was trained by."""


class RuntimeRepository:
    """Rows of no tenant: runtimes serve all of them."""

    def __init__(self, session: AsyncSession, clock: Callable[[], float] = time.time) -> None:
        self.session = session
        self.now = int(clock())

    async def report(self, owner: str, base: str, report: Report, seconds: int) -> None:
        """Keep what a runtime tells; without another word it is taken for gone after `seconds`."""
        old = RuntimeRow.alive_until < self.now - KEPT_SECONDS
        await self.session.execute(delete(RuntimeRow).where(old))
        row = await self.session.get(RuntimeRow, owner)
        if row is None:
            self.session.add(row := RuntimeRow(id=owner))
        row.base, row.alive_until = base, self.now + seconds
        row.report = msgspec.to_builtins(report)

    async def alive(self, base: str) -> list[Report]:
        """Give the runtimes that train on this base."""
        return [found for alive, found in await self._all(base) if alive]

    async def speed(self, base: str, method: Method) -> float | None:
        """Give the tokens/s that jobs got lately; None: it was never measured.

        The last word counts, also of a runtime that has gone.
        """
        told = (report.tokens_per_second.get(method) for _, report in await self._all(base))
        return next((speed for speed in told if speed is not None), None)

    async def _all(self, base: str) -> list[tuple[bool, Report]]:
        query = select(RuntimeRow).where(RuntimeRow.base == base)
        rows = await self.session.scalars(query.order_by(RuntimeRow.alive_until.desc()))
        return [(row.alive_until > self.now, msgspec.convert(row.report, Report)) for row in rows]
