"""A runtime's hold on work: kept by heartbeats, lost when they fail, and what ends the work."""

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from service.database import Database
from service.database.leases import LeaseLost, Leases
from service.database.models import Leased
from service.errors import Unavailable
from service.telemetry import logger

HEARTBEAT_SECONDS = 0.5
"""Also how long a cancellation may go unseen."""

_log = logger(__name__)


class Lease:
    """Beats while it is entered. `cancelled` and `lost` may be read from any thread."""

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
        self.cancelled = False
        self.lost = False
        self._beating: asyncio.Task[None] | None = None

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

    async def _beat(self) -> None:
        kept_until = time.monotonic() + self.seconds
        while not self.lost:
            await asyncio.sleep(min(HEARTBEAT_SECONDS, self.seconds / 3))
            began = time.monotonic()
            try:
                self.cancelled = await self._renew()
                kept_until = began + self.seconds
            except LeaseLost:
                self.lost = True
            except (DBAPIError, OSError, Unavailable):
                # The lease stands for a while without us; so does the training.
                _log.warning("lease.heartbeat_missed", exc_info=True)
                self.lost = time.monotonic() > kept_until

    async def _renew(self) -> bool:
        async with self._database.write() as session:
            return await self._leases(session).heartbeat(
                self._row.id, self._row.lease_token, self.seconds
            )
