"""Erasing tenants: begun by the operator, done in the background, and gone on with after a kill.

keys revoked -> requests ended -> jobs ended -> counted -> erased -> the tenant's id is free again
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
from sqlalchemy import Table

from adapters_store import AdapterStore, files
from service.adapters.removing import removing_alone, unbroken
from service.database import Database
from service.database.faults import AWAY
from service.database.models import ErasureRow
from service.erasure.repository import DONE, TABLES, ErasureRepository
from service.erasure.schemas import ErasureReport
from service.erasure.work import end_work
from service.errors import Unauthenticated
from service.http.in_flight import InFlight
from service.telemetry import logger
from service.waiting import pass_time

GRACE_SECONDS = 5.0
"""For requests under way."""
LOOK_SECONDS = 0.2
"""Between two looks at what somebody has to let go of."""
RETRY_SECONDS = 60.0

log = logger(__name__)


class ErasureService:
    """Every step may be cut and done again; `root` is the data folder."""

    def __init__(
        self,
        database: Database,
        store: AdapterStore,
        in_flight: InFlight,
        root: Path,
        grace: float = GRACE_SECONDS,
    ) -> None:
        self.database = database
        self.store = store
        self.in_flight = in_flight
        self.root = root
        self.grace = grace
        self._wake = asyncio.Event()
        self._at_work: dict[str, asyncio.Task[None]] = {}

    async def begin(self, tenant_id: str) -> ErasureRow:
        """Shut a tenant out at once and begin to erase it; once begun, find that.

        Raises NotFound.
        """
        async with self.database.write() as session:
            row = await ErasureRepository(session).begin(tenant_id)
        log.info("erasure.begun", tenant=tenant_id, erasure=row.id)
        self._wake.set()
        return row

    async def retrieve(self, erasure_id: str) -> ErasureRow:
        """Find an erasure; raises NotFound."""
        async with self.database.read() as session:
            return await ErasureRepository(session).get(erasure_id)

    async def page(self, after: str | None, limit: int) -> tuple[Sequence[ErasureRow], bool]:
        """List erasures, newest first, and tell whether there are more."""
        async with self.database.read() as session:
            rows = await ErasureRepository(session).page(after, limit + 1)
        return rows[:limit], len(rows) > limit

    async def run(self) -> None:
        """Erase for ever: what a kill cut, and what is begun; a fault of ours is tried again."""
        try:
            while True:
                self._wake.clear()
                await self._start_all()
                await pass_time(self._wake, RETRY_SECONDS)
        finally:
            tasks = list(self._at_work.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _start_all(self) -> None:
        try:
            async with self.database.read() as session:
                rows = await ErasureRepository(session).running()
        except AWAY:
            log.exception("erasure.not_begun")
            return
        for row in rows:
            if row.id not in self._at_work:
                self._at_work[row.id] = asyncio.create_task(self._work(row))

    async def _work(self, row: ErasureRow) -> None:
        try:
            await self.erase(row)
            log.info("erasure.done", tenant=row.tenant_id, erasure=row.id)
        except Exception:
            log.exception("erasure.failed", tenant=row.tenant_id, erasure=row.id)
        finally:
            del self._at_work[row.id]

    async def erase(self, erasure: ErasureRow) -> None:
        """Bring an erasure to its end, wherever it stood."""
        tenant_id = erasure.tenant_id
        if (await self.retrieve(erasure.id)).status == DONE:
            return  # and the tenant of that name is another one
        # Twice: a request that was let in at the last moment may have begun a job.
        for _ in range(2):
            await self._end_requests(tenant_id)
            await self._end_work(tenant_id)
        await self._count(erasure)
        await self._erase_adapters(tenant_id)
        await self._erase_folders(tenant_id)
        for table in TABLES:
            while await self._erase_some(tenant_id, table):
                pass
        await self.database.scrub()
        # Once more, for what a thread of an ended request wrote all the same.
        await self._erase_folders(tenant_id)
        async with self.database.write() as session:
            await ErasureRepository(session).finish(erasure)

    async def _end_requests(self, tenant_id: str) -> None:
        why = Unauthenticated("This tenant is being erased.")
        while not await self.in_flight.end(tenant_id, self.grace, why):
            log.warning("erasure.requests_stay", tenant=tenant_id)

    async def _end_work(self, tenant_id: str) -> None:
        while True:
            async with self.database.write() as session:
                if not await end_work(session, tenant_id):
                    return
            await asyncio.sleep(LOOK_SECONDS)

    async def _count(self, erasure: ErasureRow) -> None:
        """Note what there is, before any of it goes: a second try would find less."""
        adapter_bytes = await asyncio.to_thread(self.store.size, erasure.tenant_id)
        async with self.database.write() as session:
            rows = ErasureRepository(session)
            row = await rows.get(erasure.id)
            if row.report is None:
                report = ErasureReport(
                    rows=await rows.count(erasure.tenant_id),
                    file_bytes=await rows.file_bytes(erasure.tenant_id),
                    adapter_bytes=adapter_bytes,
                )
                row.report = msgspec.to_builtins(report)

    async def _erase_adapters(self, tenant_id: str) -> None:
        while True:
            async with removing_alone(self.database, tenant_id) as got:
                if got:
                    await unbroken(asyncio.to_thread(self.store.erase, tenant_id))
                    return
            await asyncio.sleep(LOOK_SECONDS)

    async def _erase_folders(self, tenant_id: str) -> None:
        async with self.database.read() as session:
            jobs = await ErasureRepository(session).job_ids(tenant_id)
        folders = [self.root / kind / tenant_id for kind in ("files", "uploads")]
        folders += [self.root / "jobs" / job for job in jobs]
        await asyncio.to_thread(_remove, folders)

    async def _erase_some(self, tenant_id: str, table: Table) -> bool:
        async with self.database.write() as session:
            return await ErasureRepository(session).erase_some(tenant_id, table)


def _remove(folders: Sequence[Path]) -> None:
    for folder in folders:
        # Whoever worked there may be removing it as well.
        if folder.exists():
            files.remove(folder)
