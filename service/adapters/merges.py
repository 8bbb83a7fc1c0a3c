"""What tenants do with merges. A runtime does the work, on the same rows, under a lease."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property

import msgspec

from adapters_store import (
    AdapterStore,
    InvalidAdapter,
    MergedModel,
    MergedRef,
    RevisionNotFound,
    StoreUnavailable,
    tar,
)
from service.adapters.merges_repository import MergeRepository
from service.adapters.merges_schemas import (
    CreateMerge,
    Merge,
    MergeFault,
    MergeList,
    MergeResult,
)
from service.adapters.missing import revision_not_found
from service.adapters.rejected import revision_rejected
from service.adapters.repository import Named, RevisionRepository
from service.base.description import BaseDescription
from service.base.memory import parameters
from service.database import Database
from service.database.models import FINISHED_JOBS, MergeRow
from service.errors import AdaptersUnavailable, Conflict, NotFound
from service.telemetry import logger
from service.tenants.deeds import made
from service.tenants.quotas import Quotas, Use
from service.wire import Deleted, new_id, now, page

log = logger(__name__)


class MergeService:
    """Everything raises NotFound alike for unknown and for foreign names."""

    def __init__(
        self,
        database: Database,
        store: AdapterStore,
        base: BaseDescription,
        quotas: Quotas,
    ) -> None:
        self.database = database
        self.store = store
        self.base = base
        self.quotas = quotas

    @cached_property
    def _size(self) -> int:
        """Bytes of any merged model: the base's files are read for it, once."""
        return merged_bytes(self.base)

    async def create(self, tenant_id: str, adapter: str, rev: str, body: CreateMerge) -> Merge:
        """Accept a merge, and queue it. Raises Conflict for a rejected revision, QuotaExceeded."""
        size = await asyncio.to_thread(getattr, self, "_size")
        async with self.database.write() as session:
            revisions = RevisionRepository(session)
            if rejected := await revisions.rejected(tenant_id, adapter, rev):
                raise revision_rejected(rejected, "revision")
            found = await revisions.revision(tenant_id, adapter, rev)
            if found is None:
                raise revision_not_found(adapter, rev)
            row = _row(found, body, size)
            await self.quotas.admit(session, tenant_id, Use(stored_bytes=size))
            await MergeRepository(session).add(row)
            return made(shown(row))

    async def list(self, tenant_id: str, after: str | None, limit: int) -> MergeList:
        """List merges, newest first."""
        async with self.database.read() as session:
            rows = await MergeRepository(session).page(tenant_id, after, limit + 1)
        data = [shown(row) for row in rows[:limit]]
        return page(MergeList, data, has_more=len(rows) > limit)

    async def retrieve(self, tenant_id: str, merge_id: str) -> Merge:
        """Show a merge."""
        async with self.database.read() as session:
            return shown(await MergeRepository(session).get(tenant_id, merge_id))

    async def cancel(self, tenant_id: str, merge_id: str) -> Merge:
        """Cancel a merge: who works on it finds that out within a heartbeat. Idempotent.

        Raises Conflict when it has succeeded or failed.
        """
        async with self.database.write() as session:
            merges = MergeRepository(session)
            row = await merges.get(tenant_id, merge_id, lock=True)
            if row.status in ("succeeded", "failed"):
                message = f"The merge {merge_id} has already {row.status}."
                raise Conflict(message, param="merge", code="merge_has_ended")
            if row.status != "cancelled":
                merges.cancel(row)
        return shown(row)

    async def delete(self, tenant_id: str, merge_id: str) -> Deleted:
        """Delete a merge that has ended, and its files. Raises Conflict for one that has not."""
        async with self.database.read() as session:
            row = await MergeRepository(session).get(tenant_id, merge_id)
        if row.status not in FINISHED_JOBS:
            message = f"The merge {merge_id} is {row.status}: cancel it first."
            raise Conflict(message, param="merge", code="merge_not_finished")
        # Before the row: while the store does not answer, there is somebody to ask again for.
        try:
            await asyncio.to_thread(discard, self.store, ref_of(row))
        except StoreUnavailable:
            raise AdaptersUnavailable from None
        async with self.database.write() as session:
            await MergeRepository(session).remove(tenant_id, merge_id)
        return Deleted(id=merge_id, object="adapter.merge", deleted=True)

    async def result(self, tenant_id: str, merge_id: str) -> "MergeArchive":
        """Open the merged model. Raises Conflict unless the merge has succeeded."""
        async with self.database.read() as session:
            row = await MergeRepository(session).get(tenant_id, merge_id)
        if row.status != "succeeded":
            message = f"The merge {merge_id} is {row.status}, and has no result."
            raise Conflict(message, param="merge", code="merge_not_succeeded")
        return MergeArchive(await asyncio.to_thread(self._open, ref_of(row)))

    def _open(self, ref: MergedRef) -> MergedModel:
        try:
            return self.store.open_merged(ref)
        except RevisionNotFound:
            message = f"The files of {ref.merge} were deleted with the revision that was merged."
            raise NotFound(message, param="merge", code="merge_result_gone") from None
        except StoreUnavailable:
            raise AdaptersUnavailable from None
        except InvalidAdapter as fault:
            log.error("merge.damaged", tenant=ref.tenant, merge=ref.merge, error=str(fault))
            message = f"The merged model's files are damaged: {fault}."
            raise Conflict(message, param="merge", code="merge_damaged") from None


class MergeArchive(msgspec.Struct, frozen=True):
    """A merged model as a tar: the same bytes whenever it is asked for."""

    model: MergedModel

    @property
    def size(self) -> int:
        """How many bytes it is."""
        return tar.size(entry.bytes for entry in self.model.manifest.files.values())

    def blocks(self) -> Iterator[bytes]:
        """Read it; blocks. Raises InvalidAdapter where a file has changed."""
        described = self.model.manifest
        return tar.blocks(
            (
                (name, entry.bytes, self.model.read(name))
                for name, entry in sorted(described.files.items())
            ),
            described.created_at,
        )


def discard(store: AdapterStore, ref: MergedRef) -> None:
    """Remove a merge's files, if there are any. Raises StoreUnavailable."""
    with suppress(RevisionNotFound):
        store.delete(ref)


def ref_of(row: MergeRow) -> MergedRef:
    """Tell where the merged model is, or will be."""
    return MergedRef(row.tenant_id, row.adapter, row.digest, row.id)


def shown(row: MergeRow) -> Merge:
    """Show a merge."""
    error = None
    if row.error_code is not None:
        error = MergeFault(code=row.error_code, message=row.error_message or "")
    return Merge(
        id=row.id,
        object="adapter.merge",
        adapter=row.adapter,
        revision=row.digest,
        model=row.model,
        base_weights=row.spec["base_weights"],
        status=row.status,  # type: ignore[arg-type]
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        error=error,
        result=None if row.result is None else msgspec.convert(row.result, MergeResult),
    )


def merged_bytes(base: BaseDescription) -> int:
    """Estimate how much a merged model takes: all of the base's parameters, at 16 bit."""
    return 2 * parameters(base.path)


def _row(found: Named, body: CreateMerge, size: int) -> MergeRow:
    model, revision = found
    return MergeRow(
        id=new_id("merge-"),
        tenant_id=revision.tenant_id,
        adapter=revision.adapter,
        digest=revision.digest,
        model=model.name,
        spec=msgspec.to_builtins(body),
        status="queued",
        created_at=now(),
        attempts=0,
        lease_token=0,
        bytes=size,
    )
