"""Retention at work: what of an adapter goes, what holds the rest, and letting go of it."""

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from adapters_store import RevisionRef
from service.adapters.adapters_repository import AdapterRepository
from service.adapters.aliases_repository import AliasRepository, targets_of
from service.adapters.leases import Leases
from service.adapters.missing import adapter_not_found
from service.adapters.rejected import PUBLISHED
from service.adapters.removing import Remover
from service.adapters.repository import RevisionRepository
from service.adapters.retention import Name, Verdict, Version, beyond
from service.database import Database
from service.database.models import FINISHED_JOBS, AdapterRow, JobRow, MergeRow, RevisionRow
from service.errors import Conflict
from service.telemetry import logger

AT_ONCE = 50
"""Revisions that one transaction lets go of."""

log = logger(__name__)


class Retention:
    """Lets go of old results. Deleting rows is all of it: files go as those of a deleted model."""

    def __init__(self, database: Database, remover: Remover) -> None:
        self.database = database
        self.remover = remover

    async def limit(self, tenant_id: str, adapter: str, keep_last: int | None) -> None:
        """Set how many results an adapter keeps. Raises NotFound."""
        async with self.database.write() as session:
            row = await AdapterRepository(session).find(tenant_id, adapter)
            if row is None:
                raise adapter_not_found(adapter)
            row.keep_last = keep_last

    async def preview(
        self, tenant_id: str, adapter: str, keep_last: int | None = None
    ) -> tuple[int | None, list[Verdict]]:
        """Judge what is beyond the newest, by the adapter's own limit unless one is given.

        Raises NotFound.
        """
        async with self.database.read() as session:
            row = await AdapterRepository(session).find(tenant_id, adapter)
            if row is None:
                raise adapter_not_found(adapter)
            limit = row.keep_last if keep_last is None else keep_last
            return limit, await judge(session, row, limit, self.remover.leases)

    async def limited(self, tenant_id: str) -> Sequence[str]:
        """Name the tenant's adapters that have a limit."""
        query = select(AdapterRow.name).where(
            AdapterRow.tenant_id == tenant_id, AdapterRow.keep_last.is_not(None)
        )
        async with self.database.read() as session:
            return (await session.scalars(query)).all()

    async def apply(self, tenant_id: str, adapter: str) -> list[RevisionRef]:
        """Let go of what is beyond the newest and needed by nothing."""
        gone: list[RevisionRef] = []
        refused: set[str] = set()
        while some := await self._let_go(tenant_id, adapter, refused):
            gone += some
        return gone

    async def _let_go(self, tenant_id: str, adapter: str, refused: set[str]) -> list[RevisionRef]:
        gone: list[RevisionRef] = []
        async with self.database.write() as session:
            # Nobody moves an alias meanwhile.
            await AliasRepository(session).lock(tenant_id, adapter)
            adapters = AdapterRepository(session)
            row = await adapters.find(tenant_id, adapter)
            if row is None:
                return []
            verdicts = await judge(session, row, row.keep_last, self.remover.leases)
            going = [v.version.digest for v in verdicts if not v.kept_by]
            for digest in [digest for digest in going if digest not in refused][:AT_ONCE]:
                found = await adapters.by_digest(tenant_id, digest, adapter)
                if found is not None and await _forget(session, found):
                    gone.append(RevisionRef(tenant_id, adapter, digest))
                else:
                    refused.add(digest)
        for ref in gone:
            log.info("revision.retired", tenant=tenant_id, adapter=adapter, digest=ref.digest)
            await self.remover.remove_when_free(ref)
        return gone


async def judge(
    session: AsyncSession, adapter: AdapterRow, keep_last: int | None, leases: Leases
) -> list[Verdict]:
    """Judge an adapter's revisions, newest first, as the rows and leases are now."""
    if keep_last is None:
        return []
    adapters = AdapterRepository(session)
    rows = await adapters.revisions(adapter.tenant_id, adapter.name, None, None)
    named = await adapters.named_of(adapter.tenant_id, adapter.name)
    versions = [
        Version(
            row.digest,
            row.created_at,
            row.status == PUBLISHED or row.overridden_at is not None,
            [Name(m.seq, m.name, m.job_id, m.step, m.created_at) for m in named.get(row.id, ())],
        )
        for row in rows
    ]
    needed = await _needed(session, adapter, rows)
    for row in rows:
        if leases.needed(RevisionRef(row.tenant_id, row.adapter, row.digest)):
            needed[row.digest].append("a request in flight")
    unfinished = await _unfinished(session, adapter)
    for version in versions:
        jobs = unfinished & {name.job_id for name in version.names}
        needed[version.digest] += [f"the job {job}" for job in sorted(filter(None, jobs))]
    return beyond(versions, keep_last, needed)


async def _needed(
    session: AsyncSession, adapter: AdapterRow, rows: Sequence[RevisionRow]
) -> defaultdict[str, list[str]]:
    needed: defaultdict[str, list[str]] = defaultdict(list)
    for alias in await AliasRepository(session).of_adapters(adapter.tenant_id, [adapter.name]):
        for target in targets_of(alias):
            needed[target.digest].append(f"the alias {alias.alias}")
    for row in rows:
        if row.pinned:
            needed[row.digest].append("a pin")
    parents = select(JobRow.id, JobRow.spec["base_adapter", "digest"].as_string()).where(
        JobRow.tenant_id == adapter.tenant_id,
        JobRow.status.not_in(FINISHED_JOBS),
        JobRow.spec["base_adapter", "adapter"].as_string() == adapter.name,
    )
    for job, digest in await session.execute(parents):
        needed[digest].append(f"the job {job}, which goes on from it")
    merges = select(MergeRow.id, MergeRow.digest).where(
        MergeRow.tenant_id == adapter.tenant_id,
        MergeRow.adapter == adapter.name,
        MergeRow.status.not_in(FINISHED_JOBS),
    )
    for merge, digest in await session.execute(merges):
        needed[digest].append(f"the merge {merge}")
    return needed


async def _unfinished(session: AsyncSession, adapter: AdapterRow) -> set[str | None]:
    """Find the jobs whose checkpoints may yet get a result."""
    query = select(JobRow.id).where(
        JobRow.tenant_id == adapter.tenant_id,
        JobRow.adapter == adapter.name,
        JobRow.status.not_in(FINISHED_JOBS),
    )
    return set(await session.scalars(query))


async def _forget(session: AsyncSession, row: RevisionRow) -> bool:
    """Delete a revision's rows; False where somebody came to need it in the last moment."""
    revisions = RevisionRepository(session)
    named = await AdapterRepository(session).named(row.tenant_id, [row])
    try:
        async with session.begin_nested():
            for model in named[row.id]:
                await revisions.forget(model, row)
            if not named[row.id]:
                await session.execute(delete(RevisionRow).where(RevisionRow.seq == row.seq))
    except Conflict:
        return False
    return True
