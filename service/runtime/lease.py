"""A runtime's hold on work: claimed, kept by heartbeats, lost when they fail, and what ends it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from service.database import Database
from service.database.faults import AWAY
from service.database.leases import LeaseLost, Leases
from service.database.models import Leased
from service.telemetry import logger

HEARTBEAT_SECONDS = 0.5
"""Also how long a cancellation or a pause may go unseen."""

T = TypeVar("T")

_log = logger(__name__)


async def claim(
    database: Database, take: Callable[[AsyncSession], Awaitable[T | None]]
) -> T | None:
    """Take work; there is none while the database is away."""
    try:
        async with database.write() as session:
            return await take(session)
    except AWAY:
        # The base has other work; the database may come back.
        _log.warning("lease.not_claimed", exc_info=True)
        return None


class Lease:
    """Beats while it is entered. `stopping` and `lost` may be read from any thread."""

    def __init__(
        self,
        database: Database,
        row: Leased,
        seconds: float,
        leases: Callable[[AsyncSession], Leases[Any]],
    ) -> None:
        self._database = database
        self._row = row
        self._leases = leases
        self.seconds = seconds
        self.stopping = False
        """Whether the tenant asked for the work to be put down."""
        self._taken = False
        self._kept_until = time.monotonic() + seconds
        self._beating: asyncio.Task[None] | None = None

    @property
    def lost(self) -> bool:
        """Whether another runtime may hold the work by now: also while a heartbeat hangs."""
        return self._taken or time.monotonic() > self._kept_until

    async def __aenter__(self) -> Self:
        self._beating = asyncio.create_task(self._beat())
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _fault: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        assert self._beating is not None
        self._beating.cancel()
        await asyncio.gather(self._beating, return_exceptions=True)

    def check(self) -> None:
        """Raise LeaseLost if another runtime may hold the job by now."""
        if self.lost:
            raise LeaseLost(self._row.id)

    async def insist(self, write: Callable[[], Awaitable[T]]) -> T:
        """Write, again and again while the database is away, for as long as a lease stands.

        Raises LeaseLost.
        """
        until = time.monotonic() + self.seconds
        while True:
            try:
                return await write()
            except AWAY:
                self.check()
                if time.monotonic() > until:
                    raise
                _log.warning("lease.not_written", exc_info=True)
            await asyncio.sleep(self._pause)

    @property
    def _pause(self) -> float:
        return min(HEARTBEAT_SECONDS, self.seconds / 3)

    async def _beat(self) -> None:
        while not self.lost:
            await asyncio.sleep(self._pause)
            began = time.monotonic()
            try:
                self.stopping = await self._renew()
                self._kept_until = began + self.seconds
            except LeaseLost:
                self._taken = True
            except Exception:  # noqa: BLE001  a lease that nobody renews lapses, whatever it was
                # It stands for a while without us; so does the work.
                _log.warning("lease.heartbeat_missed", exc_info=True)

    async def _renew(self) -> bool:
        async with self._database.write() as session:
            return await self._leases(session).heartbeat(
                self._row.id, self._row.lease_token, self.seconds
            )
