"""A tenant's adapters, revisions and the names they are called by."""

from collections.abc import Sequence

from sqlalchemy import Select, delete, exists, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.adapters.aliases_repository import AliasRepository, targets_of
from service.adapters.names import model_name, shortest_rev
from service.database.models import (
    FINISHED_JOBS,
    AdapterRow,
    FineTunedModelRow,
    JobRow,
    RevisionRow,
)
from service.errors import Conflict
from service.wire import new_id, now

Named = tuple[FineTunedModelRow, RevisionRow]


class RevisionRepository:
    """Rows only: the files are the store's, and are published before a row speaks of them."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def record(
        self,
        tenant_id: str,
        adapter: str,
        digest: str,
        *,
        base_name: str,
        format: str,  # noqa: A002
        job_id: str,
        step: int | None = None,
    ) -> str:
        """Make a published revision callable and return its name; `step` is a checkpoint's.

        Recording the same again returns the same name.
        """
        await self._ensure_adapter(tenant_id, adapter)
        revision = await self._ensure_revision(tenant_id, adapter, digest, format, job_id)
        name = model_name(base_name, tenant_id, adapter, revision.rev, step)
        if await self.find(tenant_id, name) is None:
            self.session.add(
                FineTunedModelRow(
                    tenant_id=tenant_id,
                    name=name,
                    revision_id=revision.id,
                    job_id=job_id,
                    step=step,
                    created_at=now(),
                )
            )
            await self.session.flush()
        return name

    async def find(self, tenant_id: str, name: str) -> Named | None:
        """Find a model by its exact name."""
        return await self._first(_named(tenant_id).where(FineTunedModelRow.name == name))

    async def newest(self, tenant_id: str, adapter: str | None = None) -> Named | None:
        """Find the latest result of a job, of one adapter or of all; checkpoints do not count."""
        query = _named(tenant_id).where(FineTunedModelRow.step.is_(None))
        if adapter is not None:
            query = query.where(RevisionRow.adapter == adapter)
        return await self._first(query)

    async def revision(self, tenant_id: str, adapter: str, rev: str) -> Named | None:
        """Find a revision by its short name or its whole digest, under a result's name if any."""
        query = _named(tenant_id).where(
            RevisionRow.adapter == adapter, (RevisionRow.rev == rev) | (RevisionRow.digest == rev)
        )
        result = await self._first(query.where(FineTunedModelRow.step.is_(None)))
        return result or await self._first(query)

    async def list(self, tenant_id: str) -> Sequence[Named]:
        """List all callable names, newest first."""
        return [
            (model, revision) for model, revision in await self.session.execute(_named(tenant_id))
        ]

    async def hold(self, tenant_id: str, adapter: str, digest: str) -> bool:
        """Keep a revision until the transaction ends; tell whether it is there."""
        query = select(RevisionRow.seq).where(
            RevisionRow.tenant_id == tenant_id,
            RevisionRow.adapter == adapter,
            RevisionRow.digest == digest,
        )
        return await self.session.scalar(query.with_for_update(read=True)) is not None

    async def forget(self, model: FineTunedModelRow, revision: RevisionRow) -> bool:
        """Remove a name, and what nothing names any more; tell whether the revision went.

        Raises Conflict if it would go while an unfinished job goes on from it, or an alias names
        it.
        """
        await self.session.execute(
            delete(FineTunedModelRow).where(FineTunedModelRow.seq == model.seq)
        )
        named = exists().where(FineTunedModelRow.revision_id == RevisionRow.id)
        gone = await self.session.execute(
            delete(RevisionRow).where(RevisionRow.seq == revision.seq, ~named)
        )
        if not gone.rowcount:  # type: ignore[attr-defined]
            return False
        await self._refuse_if_needed(model, revision)
        await self._refuse_if_aliased(model, revision)
        return True

    async def _refuse_if_aliased(self, model: FineTunedModelRow, revision: RevisionRow) -> None:
        aliases = AliasRepository(self.session)
        for row in await aliases.of_adapters(revision.tenant_id, [revision.adapter]):
            if revision.digest in {target.digest for target in targets_of(row)}:
                raise Conflict(
                    f"Model {model.name} is what the alias {row.adapter}@{row.alias} names: move "
                    "or delete the alias first",
                    param="model",
                    code="model_in_use",
                )

    async def _refuse_if_needed(self, model: FineTunedModelRow, revision: RevisionRow) -> None:
        needing = select(JobRow.id).where(
            JobRow.tenant_id == revision.tenant_id,
            JobRow.status.not_in(FINISHED_JOBS),
            JobRow.spec["base_adapter", "adapter"].as_string() == revision.adapter,
            JobRow.spec["base_adapter", "digest"].as_string() == revision.digest,
        )
        job = await self.session.scalar(needing.limit(1))
        if job is not None:
            raise Conflict(
                f"Model {model.name} is needed by the fine-tuning job {job}, which has not "
                "finished: cancel the job first",
                param="model",
                code="model_in_use",
            )

    async def _first(self, query: Select[FineTunedModelRow, RevisionRow]) -> Named | None:
        row = (await self.session.execute(query.limit(1))).first()
        return None if row is None else (row[0], row[1])

    async def _ensure_adapter(self, tenant_id: str, name: str) -> None:
        there = select(AdapterRow.seq).where(
            AdapterRow.tenant_id == tenant_id, AdapterRow.name == name
        )
        if await self.session.scalar(there) is None:
            row = AdapterRow(id=new_id("adp_"), tenant_id=tenant_id, name=name, created_at=now())
            self.session.add(row)

    async def _ensure_revision(
        self, tenant_id: str, adapter: str, digest: str, format_: str, job_id: str
    ) -> RevisionRow:
        of_adapter = select(RevisionRow).where(
            RevisionRow.tenant_id == tenant_id, RevisionRow.adapter == adapter
        )
        rows = {row.digest: row for row in await self.session.scalars(of_adapter)}
        if digest in rows:
            return rows[digest]
        row = RevisionRow(
            id=new_id("rev_"),
            tenant_id=tenant_id,
            adapter=adapter,
            digest=digest,
            rev=shortest_rev(digest, rows.keys()),
            format=format_,
            job_id=job_id,
            created_at=now(),
        )
        self.session.add(row)
        # The name's row refers to it, and nothing else tells the order to write them in.
        await self.session.flush()
        return row


def _named(tenant_id: str) -> Select[FineTunedModelRow, RevisionRow]:
    return (
        select(FineTunedModelRow, RevisionRow)
        .join(RevisionRow, RevisionRow.id == FineTunedModelRow.revision_id)
        .where(FineTunedModelRow.tenant_id == tenant_id)
        .order_by(FineTunedModelRow.seq.desc())
    )
