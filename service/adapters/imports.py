"""Bringing adapters in: checked, tried by the serving engine, and only then a revision.

What is tried is in the store under the adapter's name `import`, which no adapter has: it has no
row, so nobody can call it, and it goes when the trial ends, whoever has equal content elsewhere.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol
from weakref import WeakValueDictionary

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from adapters_store import (
    AdapterStore,
    InvalidAdapter,
    Origin,
    Revision,
    RevisionNotFound,
    RevisionRef,
    StoreUnavailable,
)
from adapters_store.intake import from_archive, from_files
from service.adapters import names
from service.adapters.adapters_repository import AdapterRepository
from service.adapters.aliases_repository import AliasRepository, targets_of
from service.adapters.imports_checks import check_parts, check_wish, format_of, refusal
from service.adapters.imports_schemas import (
    ARCHIVE,
    CONFIG,
    WEIGHTS,
    ImportAdapter,
    ImportedRevision,
)
from service.adapters.origins import imported
from service.adapters.present import revision_of
from service.adapters.rejected import revision_rejected
from service.adapters.removing import publishing, removing_alone, unbroken
from service.adapters.repository import Named, RevisionRepository
from service.adapters.servable import check_servable
from service.adapters.weights import WeightedTarget
from service.base.description import BaseDescription
from service.base.lora_rules import BadLora
from service.database import Database
from service.database.models import Json
from service.datasets.folder import FileFolder
from service.datasets.receive import Received
from service.errors import AdaptersUnavailable, Unprocessable
from service.telemetry import logger
from service.tenants.deeds import made
from service.tenants.quotas import Quotas, Use

CREATED, THERE = 201, 200
TRIAL = "import"
assert TRIAL in names.RESERVED
MOST_AT_ONCE = 2

log = logger(__name__)


class Verdict(Protocol):
    """What came of a trial."""

    @property
    def passed(self) -> bool: ...
    @property
    def reason(self) -> str: ...
    def report(self) -> Json: ...


Examine = Callable[[RevisionRef, str], Awaitable[Verdict]]
"""Tries a revision, of a format, in the serving engine. Raises EngineUnavailable."""


class ImportService:
    """Imports of all tenants; those of one tenant take turns."""

    def __init__(
        self,
        database: Database,
        store: AdapterStore,
        base: BaseDescription,
        folder: FileFolder,
        examine: Examine,
        max_bytes: int,
        quotas: Quotas,
    ) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._database = database
        self._store = store
        self._base = base
        self._examine = examine
        self._quotas = quotas
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._unpacking = asyncio.Semaphore(MOST_AT_ONCE)

    async def create(
        self,
        tenant_id: str,
        files: Mapping[str, Received],
        wish: ImportAdapter,
        key_id: str | None,
    ) -> tuple[ImportedRevision, bool]:
        """Bring an adapter in, and tell whether it is new. What is refused leaves nothing.

        Raises BadRequest for what is no adapter of this base, Unprocessable for what the serving
        engine rejects, QuotaExceeded, and EngineUnavailable.
        """
        check_wish(wish, self._base.name)
        check_parts(files)
        async with (
            self._turn(tenant_id),
            publishing(self._database, tenant_id),
            self._trial(tenant_id, files, wish) as (trial, origin),
        ):
            return await self._admit(trial, origin, wish, key_id)

    async def clean(self) -> None:
        """Remove what a crash left of trials; where somebody is at work, the collector will."""
        try:
            for tenant_id in await asyncio.to_thread(self._store.tenants):
                async with removing_alone(self._database, tenant_id) as got:
                    if got:
                        await unbroken(asyncio.to_thread(self._end_trials, tenant_id))
        except StoreUnavailable as fault:
            log.warning("import.trials_left", error=str(fault))

    def _turn(self, tenant_id: str) -> asyncio.Lock:
        return self._turns.setdefault(tenant_id, asyncio.Lock())

    @asynccontextmanager
    async def _trial(
        self, tenant_id: str, files: Mapping[str, Received], wish: ImportAdapter
    ) -> AsyncIterator[tuple[Revision, Origin]]:
        """Give what is tried, and remove it in the end; also when this is cancelled."""

        async def stage() -> tuple[Revision, Origin]:
            async with self._unpacking:
                return await asyncio.to_thread(self._stage, tenant_id, files, wish)

        staging = asyncio.create_task(stage())
        try:
            yield await unbroken(staging)
        finally:
            if staging.exception() is None:
                trial, _ = staging.result()
                await unbroken(asyncio.to_thread(self._end_trial, trial.ref))

    def _stage(
        self, tenant_id: str, files: Mapping[str, Received], wish: ImportAdapter
    ) -> tuple[Revision, Origin]:
        try:
            with self._store.stage() as staged:
                if ARCHIVE in files:
                    arrival = from_archive(files[ARCHIVE].path, staged, self.max_bytes)
                else:
                    arrival = from_files(files[CONFIG].path, files[WEIGHTS].path, staged)
                check_servable(arrival, self._base)
                origin = imported(self._base, wish.format or format_of(arrival))
                return self._store.publish(tenant_id, TRIAL, staged, origin), origin
        except (InvalidAdapter, BadLora) as fault:
            raise refusal(str(fault), files) from None
        except StoreUnavailable:
            raise AdaptersUnavailable from None

    async def _admit(
        self, trial: Revision, origin: Origin, wish: ImportAdapter, key_id: str | None
    ) -> tuple[ImportedRevision, bool]:
        ref = msgspec.structs.replace(trial.ref, adapter=wish.adapter)
        room = Use(stored_bytes=trial.bytes)
        gate = await self._gate(ref, trial.ref, origin.format, room)
        await unbroken(asyncio.to_thread(self._publish, trial, origin, ref.adapter))
        async with self._database.write() as session:
            if (known := await _known(session, ref)) is not None:
                model = known[0].name
            else:
                # What another took since it was looked at leaves files to the collector.
                await self._quotas.admit(session, ref.tenant, room, adapter=ref.adapter)
                model = await self._record(session, ref, origin, gate, trial.bytes)
            await _move_alias(session, ref, wish, key_id)
            shown = made(await _shown(session, ref, model), THERE if known else CREATED)
        log.info("adapter.imported", tenant=ref.tenant, adapter=ref.adapter, digest=ref.digest)
        return shown, known is None

    async def _gate(
        self, ref: RevisionRef, trial: RevisionRef, format_: str, room: Use
    ) -> Json | None:
        """Have it examined, unless the adapter has it already.

        Raises Unprocessable, Conflict, and QuotaExceeded.
        """
        async with self._database.read() as session:
            if (known := await _known(session, ref)) is not None:
                return known[1].gate
            await self._quotas.glance(session, ref.tenant, room, adapter=ref.adapter)
        verdict = await self._examine(trial, format_)
        if not verdict.passed:
            message = f"The publish gate rejected the adapter: {verdict.reason}"
            raise Unprocessable(message, code="publish_gate_rejected")
        return verdict.report()

    async def _record(
        self, session: AsyncSession, ref: RevisionRef, origin: Origin, gate: Json | None, size: int
    ) -> str:
        return await RevisionRepository(session).record(
            ref.tenant,
            ref.adapter,
            ref.digest,
            base_name=self._base.name,
            format=origin.format,
            job_id=None,
            gate=gate,
            size=size,
        )

    def _publish(self, trial: Revision, origin: Origin, adapter: str) -> None:
        try:
            self._store.publish(trial.ref.tenant, adapter, trial.path, origin)
        except (StoreUnavailable, InvalidAdapter):
            # It was good a moment ago: another process may have tried, and removed, equal content.
            raise AdaptersUnavailable from None

    def _end_trials(self, tenant_id: str) -> None:
        for ref in self._store.list(tenant_id, TRIAL):
            self._end_trial(ref)

    def _end_trial(self, ref: RevisionRef) -> None:
        try:
            self._store.delete(ref)
        except (RevisionNotFound, StoreUnavailable) as fault:
            # Whatever came of the trial stands; nobody can call what is left.
            log.warning("import.trial_left", tenant=ref.tenant, error=str(fault))


async def _known(session: AsyncSession, ref: RevisionRef) -> Named | None:
    """Find the adapter's revision of this content. Raises Conflict if the gate rejected it."""
    revisions = RevisionRepository(session)
    rejected = await revisions.rejected(ref.tenant, ref.adapter, ref.digest)
    if rejected is not None:
        # What an operator may override, nobody else does by bringing it again.
        raise revision_rejected(rejected, "adapter")
    return await revisions.revision(ref.tenant, ref.adapter, ref.digest)


async def _move_alias(
    session: AsyncSession, ref: RevisionRef, wish: ImportAdapter, key_id: str | None
) -> None:
    """Make the alias that is asked for name the revision alone, unless it does so already."""
    if wish.alias is None:
        return
    aliases = AliasRepository(session)
    await aliases.lock(ref.tenant, ref.adapter)
    row = await aliases.current(ref.tenant, ref.adapter, wish.alias)
    if row is None or [target.digest for target in targets_of(row)] != [ref.digest]:
        targets = [WeightedTarget(ref.digest, weight=1)]
        reason = wish.reason or "imported"
        await aliases.add(
            ref.tenant, ref.adapter, wish.alias, targets, key_id=key_id, reason=reason
        )


async def _shown(session: AsyncSession, ref: RevisionRef, model: str) -> ImportedRevision:
    adapters = AdapterRepository(session)
    row = await RevisionRepository(session).row(ref.tenant, ref.adapter, ref.digest)
    assert row is not None, "it was recorded just now"
    shown = revision_of(row, (await adapters.named(ref.tenant, [row]))[row.id])
    return ImportedRevision(**msgspec.structs.asdict(shown), model=model)
