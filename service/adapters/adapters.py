"""What a tenant has in the store: its adapters, their revisions, and where these come from."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from adapters_store import (
    AdapterStore,
    InvalidAdapter,
    RevisionNotFound,
    RevisionRef,
    StoreUnavailable,
)
from adapters_store.export import Archive, archive
from service.adapters.adapters_repository import AdapterRepository
from service.adapters.adapters_schemas import (
    Adapter,
    AdapterList,
    AdapterRevisionList,
    Held,
    Lineage,
    PrefetchedRevision,
    ShownRevision,
)
from service.adapters.aliases_repository import AliasRepository
from service.adapters.lineage import lineage
from service.adapters.missing import adapter_not_found, revision_not_found
from service.adapters.parity import parity_in
from service.adapters.pins import ref_of
from service.adapters.present import adapter_of, revision_of, shown_revision_of
from service.adapters.repository import RevisionRepository
from service.adapters.usable import usable_revision
from service.base.description import BaseDescription
from service.database import Database
from service.database.models import AdapterRow, RevisionRow
from service.errors import AdaptersUnavailable, Conflict
from service.telemetry import logger
from service.wire import page

log = logger(__name__)

Prefetch = Callable[[Sequence[RevisionRef]], None]
"""Has revisions loaded in the background, the most important last."""


class AdapterService:
    """Reads only. Everything raises NotFound alike for unknown and for foreign names.

    `served` tells how the base is held here, None while no engine answers; `prefetch` has revisions
    loaded in the background.
    """

    def __init__(
        self,
        database: Database,
        store: AdapterStore,
        base: BaseDescription,
        *,
        served: Callable[[], Awaitable[Held | None]],
        prefetch: Prefetch,
    ) -> None:
        self.database = database
        self.store = store
        self.base = base
        self._served = served
        self._prefetch = prefetch

    async def list(self, tenant_id: str, after: str | None, limit: int) -> AdapterList:
        """List adapters, newest first."""
        async with self.database.read() as session:
            rows = await AdapterRepository(session).page(tenant_id, after, limit + 1)
            data = await _shown(session, tenant_id, rows[:limit])
        return page(AdapterList, data, has_more=len(rows) > limit)

    async def retrieve(self, tenant_id: str, adapter: str) -> Adapter:
        """Show an adapter."""
        async with self.database.read() as session:
            row = await AdapterRepository(session).find(tenant_id, adapter)
            if row is None:
                raise adapter_not_found(adapter)
            [shown] = await _shown(session, tenant_id, [row])
        return shown

    async def revisions(
        self, tenant_id: str, adapter: str, after: str | None, limit: int
    ) -> AdapterRevisionList:
        """List an adapter's revisions, newest first."""
        async with self.database.read() as session:
            adapters = AdapterRepository(session)
            if await adapters.find(tenant_id, adapter) is None:
                raise adapter_not_found(adapter)
            rows = await adapters.revisions(tenant_id, adapter, after, limit + 1)
            named = await adapters.named(tenant_id, rows[:limit])
        data = [revision_of(row, named[row.id]) for row in rows[:limit]]
        return page(AdapterRevisionList, data, has_more=len(rows) > limit)

    async def revision(self, tenant_id: str, adapter: str, rev: str) -> ShownRevision:
        """Show a revision by its short name or its whole digest."""
        async with self.database.read() as session:
            row = await _find(RevisionRepository(session), tenant_id, adapter, rev)
            named = await AdapterRepository(session).named(tenant_id, [row])
        served = await self._served()
        parity = await asyncio.to_thread(parity_in, self.store, ref_of(row), self.base, served)
        return shown_revision_of(row, named[row.id], parity)

    async def prefetch(self, tenant_id: str, adapter: str, rev: str) -> PrefetchedRevision:
        """Have a revision loaded before it is called. Raises Conflict for a rejected one."""
        async with self.database.read() as session:
            model, row = await usable_revision(RevisionRepository(session), tenant_id, adapter, rev)
        self._prefetch([ref_of(row)])
        return PrefetchedRevision(
            object="adapter.revision.prefetch",
            adapter=row.adapter,
            revision=row.digest,
            model=model.name,
        )

    async def lineage(self, tenant_id: str, adapter: str, rev: str) -> Lineage:
        """Show what a revision was made of, and what that was made of."""
        async with self.database.read() as session:
            row = await _find(RevisionRepository(session), tenant_id, adapter, rev)
        return await lineage(self.database, self.store, ref_of(row))

    async def export(self, tenant_id: str, adapter: str, rev: str) -> Archive:
        """Begin to archive a revision; the caller closes it. Raises Conflict if it is damaged."""
        async with self.database.read() as session:
            row = await _find(RevisionRepository(session), tenant_id, adapter, rev)
        ref = RevisionRef(tenant_id, row.adapter, row.digest)
        try:
            return await asyncio.to_thread(lambda: archive(self.store.open(ref)))
        except RevisionNotFound:  # deleted since its row was read
            raise revision_not_found(adapter, rev) from None
        except StoreUnavailable:
            raise AdaptersUnavailable from None
        except InvalidAdapter as fault:
            log.error("revision.damaged", tenant=tenant_id, digest=ref.digest, error=str(fault))
            message = f"The revision's files are damaged: {fault}."
            raise Conflict(message, param="revision", code="revision_damaged") from None


async def _shown(
    session: AsyncSession, tenant_id: str, rows: Sequence[AdapterRow]
) -> list[Adapter]:
    names = [row.name for row in rows]
    newest = await AdapterRepository(session).newest(tenant_id, names)
    aliases = await AliasRepository(session).of_adapters(tenant_id, names)
    return [
        adapter_of(
            row, newest.get(row.name), [alias for alias in aliases if alias.adapter == row.name]
        )
        for row in rows
    ]


async def _find(
    revisions: RevisionRepository, tenant_id: str, adapter: str, rev: str
) -> RevisionRow:
    row = await revisions.row(tenant_id, adapter, rev)
    if row is None:
        raise revision_not_found(adapter, rev)
    return row
