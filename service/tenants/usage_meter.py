"""Accounts for what requests use while they are under way: once a second, for all in one go."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from service.database import Database
from service.telemetry import logger
from service.tenants.usage_counters import Amount, Counter, day_of
from service.tenants.usage_repository import UsageRepository
from service.waiting import pass_time

FLUSH_SECONDS = 1.0
LAST_TRIES = 3

log = logger(__name__)


class Account:
    """What one request uses. `used` tells how much it is so far."""

    def __init__(self, counter: Counter, used: Callable[[], Amount]) -> None:
        self.counter = counter
        self.used = used
        self.written = Amount()
        self.closed = False

    def close(self) -> None:
        """Use no more from now on; what is not written yet still will be."""
        self.closed = True


class UsageMeter:
    """The accounts of one process. What a failed flush did not write, the next one does."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._accounts: set[Account] = set()
        self._flushing = asyncio.Lock()
        self._stop = asyncio.Event()

    def open(self, counter: Counter, used: Callable[[], Amount]) -> Account:
        """Follow a request until it closes its account."""
        account = Account(counter, used)
        self._accounts.add(account)
        return account

    async def flush(self) -> None:
        """Write what was used since the last time: one transaction, one statement a counter."""
        async with self._flushing:
            ended = [account for account in self._accounts if account.closed]
            read = {account: account.used() for account in self._accounts}
            await self._write(_sums(read.items()))
            for account, used in read.items():
                account.written = used
            self._accounts.difference_update(ended)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Flush every second, and a last time at the end."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            # Not cancelled: whether a commit that was cut took place, nobody could tell.
            self._stop.set()
            await task

    async def _run(self) -> None:
        while not self._stop.is_set():
            await pass_time(self._stop, FLUSH_SECONDS)
            await self._try()
        for _ in range(LAST_TRIES):
            if await self._try():
                return
        log.error("usage.lost", accounts=len(self._accounts))

    async def _try(self) -> bool:
        try:
            await self.flush()
        except Exception:
            log.exception("usage.not_written")
            return False
        return True

    async def _write(self, sums: dict[Counter, Amount]) -> None:
        if not sums:
            return
        day = day_of(self._clock())
        async with self._database.write() as session:
            usage = UsageRepository(session)
            # Of an erased tenant nothing may be written any more.
            staying = await usage.staying({counter.tenant_id for counter in sums})
            # In one order in every process: they wait for each other's rows, and not in a circle.
            for counter in sorted(sums):
                if counter.tenant_id in staying:
                    await usage.add(counter, day, sums[counter])


def _sums(read: Iterable[tuple[Account, Amount]]) -> dict[Counter, Amount]:
    sums: defaultdict[Counter, Amount] = defaultdict(Amount)
    for account, used in read:
        if used != account.written:
            sums[account.counter] += used - account.written
    return sums
