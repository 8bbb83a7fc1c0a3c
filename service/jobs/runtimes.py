"""What runtimes that train tell of themselves, for whoever plans a job."""

import time
from collections import ChainMap
from collections.abc import Callable, Mapping

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


class Told(msgspec.Struct, frozen=True):
    """What the runtimes of one base told."""

    alive: list[Report]
    """Of those that train now."""
    tokens_per_second: Mapping[Method, float]
    """The last word counts, also of a runtime that has gone."""


class RuntimeRepository:
    """Rows of no tenant: runtimes serve all of them."""

    def __init__(self, session: AsyncSession, clock: Callable[[], float] = time.time) -> None:
        self.session = session
        self.now = int(clock())

    async def report(self, owner: str, base: str, report: Report, seconds: int) -> None:
        """Keep what a runtime tells; without another word it is taken for gone after `seconds`."""
        row = await self.session.get(RuntimeRow, owner)
        if row is None:
            await self._forget_old()
            self.session.add(row := RuntimeRow(id=owner))
        row.base, row.alive_until = base, self.now + seconds
        row.report = msgspec.to_builtins(report)

    async def told(self, base: str) -> Told:
        """Find what those that train, or trained, on this base told."""
        query = select(RuntimeRow).where(RuntimeRow.base == base)
        rows = await self.session.scalars(query.order_by(RuntimeRow.alive_until.desc()))
        told = [(row.alive_until > self.now, msgspec.convert(row.report, Report)) for row in rows]
        speeds = ChainMap(*(report.tokens_per_second for _, report in told))
        return Told([report for alive, report in told if alive], speeds)

    async def _forget_old(self) -> None:
        old = RuntimeRow.alive_until < self.now - KEPT_SECONDS
        await self.session.execute(delete(RuntimeRow).where(old))
