"""A tenant's adapters, revisions and the names they are called by."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Select, delete, exists, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from adapters_store import RevisionRef
from service.adapters.aliases_repository import AliasRepository, targets_of
from service.adapters.engine_ids import EngineIds
from service.adapters.names import SHORTEST_REV, model_name, shortest_rev
from service.adapters.rejected import PUBLISHED, REJECTED
from service.database.models import (
    FINISHED_JOBS,
    AdapterRow,
    FineTunedModelRow,
    JobRow,
    Json,
    RevisionRow,
)
from service.errors import Conflict
from service.wire import new_id, now

Named = tuple[FineTunedModelRow, RevisionRow]


class RevisionRepository:
    """Rows only: the files are the store's, and are published before a row speaks of them.

    What is found can be called or named by an alias: it passed the publish gate, or an operator
    overrode that. Only `row` and `rejected` find others.
    """

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
        job_id: str | None,
        size: int,
        step: int | None = None,
        gate: Json | None = None,
    ) -> str:
        """Make a revision that passed the gate callable, and return its name.

        `step` is a checkpoint's, `size` the bytes of its files. Recording the same again returns
        the same name.
        """
        revision = await self._ensure_revision(tenant_id, adapter, digest, format, job_id)
        revision.status, revision.gate, revision.bytes = PUBLISHED, gate, size
        await self.session.flush()
        return await self._name(revision, base_name, job_id, step)

    async def reject(
        self,
        tenant_id: str,
        adapter: str,
        digest: str,
        *,
        format: str,  # noqa: A002
        job_id: str | None,
        step: int | None,
        gate: Json,
        size: int,
    ) -> RevisionRow:
        """Note a revision that failed at the gate: it has no name, and its files stay.

        One that passed before, or was overridden, stays as it was: its content is the same.
        """
        row = await self._ensure_revision(tenant_id, adapter, digest, format, job_id, REJECTED)
        row.bytes = size
        if row.status == REJECTED and row.overridden_at is None:
            row.gate = gate | {"step": step}
        return row

    async def override(
        self, row: RevisionRow, base_name: str, *, reason: str, key_id: str | None
    ) -> str:
        """Make a rejected revision callable all the same, and return its name.

        Who did so first, and why, stays recorded.
        """
        if row.overridden_at is None:
            row.override_reason, row.override_key_id, row.overridden_at = reason, key_id, now()
            await self.session.flush()
        return await self._name(row, base_name, row.job_id, (row.gate or {}).get("step"))

    async def find(self, tenant_id: str, name: str) -> Named | None:
        """Find a model by its exact name."""
        if "\0" in name:
            return None  # PostgreSQL has no such text, and refuses to compare with it
        return await self._first(_named(tenant_id).where(FineTunedModelRow.name == name))

    async def newest(self, tenant_id: str) -> Named | None:
        """Find the latest result of a job; checkpoints do not count."""
        return await self._first(_named(tenant_id).where(FineTunedModelRow.step.is_(None)))

    async def row(self, tenant_id: str, adapter: str, rev: str) -> RevisionRow | None:
        """Find a revision, rejected or not, by its short name or its whole digest."""
        row: RevisionRow | None = await self.session.scalar(_of(tenant_id, adapter, rev))
        return row

    async def rejected(
        self, tenant_id: str, adapter: str, rev: str | None = None
    ) -> RevisionRow | None:
        """Find a rejected revision that nobody overrode; without `rev` the newest."""
        query = _of(tenant_id, adapter, rev).where(~is_callable())
        row: RevisionRow | None = await self.session.scalar(query.order_by(RevisionRow.seq.desc()))
        return row

    async def revision(self, tenant_id: str, adapter: str, rev: str) -> Named | None:
        """Find a revision by its short name or its whole digest, under a result's name if any."""
        query = _named(tenant_id).where(RevisionRow.adapter == adapter, is_revision(rev))
        result = await self._first(query.where(FineTunedModelRow.step.is_(None)))
        return result or await self._first(query)

    async def names(self, tenant_id: str) -> Sequence[tuple[str, int]]:
        """List all callable names, newest first, and when they came to be."""
        # Not the rows: there may be ten thousand, and there is no paging.
        columns = (FineTunedModelRow.name, FineTunedModelRow.created_at)
        found = await self.session.execute(_named(tenant_id).with_only_columns(*columns))
        return [(name, created_at) for name, created_at in found]

    async def hold(self, tenant_id: str, adapter: str, digest: str) -> bool:
        """Keep a revision until the transaction ends; tell whether it is there."""
        query = select(RevisionRow.seq).where(
            RevisionRow.tenant_id == tenant_id,
            RevisionRow.adapter == adapter,
            RevisionRow.digest == digest,
            is_callable(),
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

    async def _name(
        self, revision: RevisionRow, base_name: str, job_id: str | None, step: int | None
    ) -> str:
        tenant_id = revision.tenant_id
        name = model_name(base_name, tenant_id, revision.adapter, revision.rev, step)
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

    async def _ensure_adapter(self, tenant_id: str, name: str) -> None:
        there = select(AdapterRow.seq).where(
            AdapterRow.tenant_id == tenant_id, AdapterRow.name == name
        )
        if await self.session.scalar(there) is None:
            row = AdapterRow(id=new_id("adp_"), tenant_id=tenant_id, name=name, created_at=now())
            self.session.add(row)

    async def _ensure_revision(
        self,
        tenant_id: str,
        adapter: str,
        digest: str,
        format_: str,
        job_id: str | None,
        status: str = PUBLISHED,
    ) -> RevisionRow:
        await self._ensure_adapter(tenant_id, adapter)
        of_adapter = (RevisionRow.tenant_id == tenant_id, RevisionRow.adapter == adapter)
        there = select(RevisionRow).where(*of_adapter, RevisionRow.digest == digest)
        known: RevisionRow | None = await self.session.scalar(there)
        if known is not None:
            return known
        begins_alike = RevisionRow.digest.startswith(digest[:SHORTEST_REV])
        others = await self.session.scalars(
            select(RevisionRow.digest).where(*of_adapter, begins_alike)
        )
        row = RevisionRow(
            id=new_id("rev_"),
            tenant_id=tenant_id,
            adapter=adapter,
            digest=digest,
            rev=shortest_rev(digest, others.all()),
            format=format_,
            job_id=job_id,
            created_at=now(),
            status=status,
        )
        self.session.add(row)
        # The name's row refers to it, and nothing else tells the order to write them in.
        await self.session.flush()
        await EngineIds(self.session).ensure(RevisionRef(tenant_id, adapter, digest))
        return row


def _named(tenant_id: str) -> Select[FineTunedModelRow, RevisionRow]:
    return (
        select(FineTunedModelRow, RevisionRow)
        .join(RevisionRow, RevisionRow.id == FineTunedModelRow.revision_id)
        .where(FineTunedModelRow.tenant_id == tenant_id, is_callable())
        .order_by(FineTunedModelRow.seq.desc())
    )


def _of(tenant_id: str, adapter: str, rev: str | None) -> Select[RevisionRow]:
    query = select(RevisionRow).where(
        RevisionRow.tenant_id == tenant_id, RevisionRow.adapter == adapter
    )
    return query if rev is None else query.where(is_revision(rev))


def is_revision(rev: str | ColumnElement[str]) -> ColumnElement[bool]:
    """Whether a revision is meant by its short name, or its whole digest."""
    return or_(RevisionRow.rev == rev, RevisionRow.digest == rev)


def is_callable() -> ColumnElement[bool]:
    """Whether a revision may be called, or named by an alias."""
    return or_(RevisionRow.status == PUBLISHED, RevisionRow.overridden_at.is_not(None))
