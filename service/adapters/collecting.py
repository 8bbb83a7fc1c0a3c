"""The collector: what no row speaks of, what publishes and deletes left, what retention lets go.

It walks the store tenant by tenant, while everything else goes on. Of a tenant that this database
does not know it takes no revision: that is another database's, and no rubbish.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import msgspec
from sqlalchemy import select

from adapters_store import AdapterStore, RevisionNotFound, RevisionRef
from adapters_store.checking import SETTLED_SECONDS
from service.adapters.removing import Remover
from service.adapters.retaining import Retention
from service.database import Database
from service.database.models import ErasureRow, RevisionRow, TenantRow
from service.telemetry import logger

log = logger(__name__)


class Found(msgspec.Struct, frozen=True):
    """Something that went, would go or is left, and why."""

    where: str
    what: str


class Collector:
    """Runs beside everything else; several at once do no harm."""

    def __init__(
        self,
        database: Database,
        store: AdapterStore,
        remover: Remover,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.database = database
        self.store = store
        self.remover = remover
        self.retention = Retention(database, remover)
        self.clock = clock

    async def run(self, period: float) -> None:
        """Go round for ever, `period` seconds apart."""
        while True:
            await asyncio.sleep(period)
            try:
                await self.go_round()
            except Exception:
                log.exception("collector.failed")

    async def go_round(self) -> None:
        """Collect from all tenants; a fault of one's keeps nothing from the others."""
        for tenant in await self._tenants():
            try:
                async for found in self.collect(tenant):
                    log.info("collector.found", where=found.where, what=found.what)
            except Exception:
                log.exception("collector.failed", tenant=tenant)

    async def collect(
        self, tenant: str | None = None, *, dry: bool = False, revisions: bool = True
    ) -> AsyncIterator[Found]:
        """Remove what may go and tell of it; `dry` removes nothing, and tells of what stays too.

        `revisions=False` touches no whole revision: only who knows the leases may.
        """
        for name in [tenant] if tenant is not None else await self._tenants():
            if revisions and await self._known(name):
                async for found in self._retired(name, dry):
                    yield found
                async for found in self._unspoken(name, dry):
                    yield found
            async for found in self._orphans(name, dry):
                yield found

    async def _tenants(self) -> list[str]:
        return [*await asyncio.to_thread(self.store.tenants)]

    async def _known(self, tenant: str) -> bool:
        here = select(TenantRow.id).where(TenantRow.id == tenant)
        # What came of an erased one's job after all.
        erased = select(ErasureRow.tenant_id).where(ErasureRow.tenant_id == tenant)
        async with self.database.read() as session:
            return await session.scalar(here.union_all(erased).limit(1)) is not None

    async def _retired(self, tenant: str, dry: bool) -> AsyncIterator[Found]:
        for adapter in await self.retention.limited(tenant):
            if not dry:
                for ref in await self.retention.apply(tenant, adapter):
                    yield Found(_where(ref), "removed: beyond keep_last")
                continue
            limit, verdicts = await self.retention.preview(tenant, adapter)
            for verdict in verdicts:
                why = ", ".join(verdict.kept_by)
                what = f"stays: needed by {why}" if why else f"would go: beyond keep_last {limit}"
                yield Found(f"{tenant}/{adapter}/{verdict.version.digest}", what)

    async def _unspoken(self, tenant: str, dry: bool) -> AsyncIterator[Found]:
        """Walk the revisions without a row. Listed before the rows: a new one is not missed."""
        refs = await asyncio.to_thread(lambda: [*self.store.list(tenant)])
        rows = select(RevisionRow.adapter, RevisionRow.digest).where(
            RevisionRow.tenant_id == tenant
        )
        async with self.database.read() as session:
            spoken_of = {(adapter, digest) for adapter, digest in await session.execute(rows)}
        for ref in refs:
            if (ref.adapter, ref.digest) in spoken_of or not await self._settled(ref):
                continue
            if dry:
                yield Found(_where(ref), "would go: no row speaks of it")
            elif await self.remover.remove(ref):
                yield Found(_where(ref), "removed: no row spoke of it")

    async def _settled(self, ref: RevisionRef) -> bool:
        try:
            published_at = await asyncio.to_thread(self.store.published_at, ref)
        except RevisionNotFound:
            return False
        return published_at < self.clock() - SETTLED_SECONDS

    async def _orphans(self, tenant: str, dry: bool) -> AsyncIterator[Found]:
        settled = self.clock() - SETTLED_SECONDS
        for orphan in await asyncio.to_thread(lambda: [*self.store.orphans(tenant, settled)]):
            if dry:
                yield Found(orphan.where, "would go: no revision speaks of it")
                continue
            await asyncio.to_thread(orphan.remove)
            yield Found(orphan.where, "removed: no revision spoke of it")


def _where(ref: RevisionRef) -> str:
    return f"{ref.tenant}/{ref.adapter}/{ref.digest}"
