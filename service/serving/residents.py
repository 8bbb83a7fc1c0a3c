"""The operator's view of what is resident, and its pins and prefetches."""

import asyncio
from collections.abc import Iterable

from sqlalchemy.ext.asyncio import AsyncSession

from adapters_store import AdapterStore, RevisionRef
from service.adapters.adapters import Prefetch
from service.adapters.adapters_schemas import Held
from service.adapters.engine_ids import EngineIds
from service.adapters.parity import parity_in
from service.adapters.pins import PinRepository, ref_of
from service.adapters.repository import RevisionRepository
from service.adapters.usable import usable_revision
from service.base.description import BaseDescription
from service.database import Database
from service.errors import Conflict, EngineUnavailable
from service.serving.engine import Engine, EngineStatus, Resident
from service.serving.pinning import tell_pins
from service.serving.residency_schemas import Residency, ResidencyTotals, ResidentRevision
from service.telemetry import logger
from service.tenants.quotas import Quotas

_log = logger(__name__)


class ResidencyService:
    """Of all tenants: for the admin key only. `places` are the engine's for adapters."""

    def __init__(
        self,
        database: Database,
        engine: Engine,
        store: AdapterStore,
        base: BaseDescription,
        *,
        places: int,
        prefetch: Prefetch,
        quotas: Quotas,
    ) -> None:
        self._database = database
        self._engine = engine
        self._store = store
        self._base = base
        self._places = places
        self._prefetch = prefetch
        self._quotas = quotas

    async def show(self) -> Residency:
        """Show what has a place, and what is pinned and has none. Raises EngineUnavailable."""
        status, pinned = await asyncio.gather(self._engine.status(), self._pinned())
        there = {resident.ref: resident for resident in status.residents}
        refs = [*there, *(ref for ref in pinned if ref not in there)]
        held = _held(status)
        # One session for all of them: they are more than connections that the database gives.
        async with self._database.read() as session:
            named = [await _named(session, ref) for ref in refs]
        data = await asyncio.gather(
            *(
                self._shown(ref, there.get(ref), pinned, held, names)
                for ref, names in zip(refs, named, strict=True)
            )
        )
        return Residency(
            object="residency",
            places=self._places,
            held=held,
            totals=_totals(status, pinned),
            data=data,
        )

    async def pin(self, tenant: str, adapter: str, rev: str, pinned: bool) -> ResidentRevision:
        """Keep a revision resident from now on, or no more; an engine's restart changes nothing.

        Raises NotFound, QuotaExceeded, and Conflict for a rejected one and unless a place is left
        for others.
        """
        async with self._database.write() as session:
            _, row = await usable_revision(RevisionRepository(session), tenant, adapter, rev)
            await PinRepository(session).set(row, pinned, self._places, self._quotas)
        try:
            await tell_pins(self._engine, self._database, self._places)
        except (EngineUnavailable, Conflict) as fault:
            # The runtime looks for itself, at its start and then again.
            _log.warning("pins.not_told", reason=fault.message)
        return await self._one(ref_of(row))

    async def prefetch(self, tenant: str, adapter: str, rev: str) -> ResidentRevision:
        """Have a revision loaded before it is called. Raises NotFound and Conflict, as `pin`."""
        async with self._database.read() as session:
            _, row = await usable_revision(RevisionRepository(session), tenant, adapter, rev)
        self._prefetch([ref_of(row)])
        return await self._one(ref_of(row))

    async def _one(self, ref: RevisionRef) -> ResidentRevision:
        status = await _status(self._engine)
        residents = [] if status is None else status.residents
        there = next((resident for resident in residents if resident.ref == ref), None)
        held = None if status is None else _held(status)
        async with self._database.read() as session:
            names = await _named(session, ref)
        return await self._shown(ref, there, await self._pinned(), held, names)

    async def _pinned(self) -> list[RevisionRef]:
        async with self._database.read() as session:
            return [ref_of(row) for row in await PinRepository(session).pinned()]

    async def _shown(
        self,
        ref: RevisionRef,
        place: Resident | None,
        pinned: Iterable[RevisionRef],
        held: Held | None,
        names: tuple[str | None, int | None],
    ) -> ResidentRevision:
        model, engine_id = names
        used_at = None if place is None else place.used_at
        return ResidentRevision(
            object="residency.revision",
            tenant=ref.tenant,
            adapter=ref.adapter,
            digest=ref.digest,
            model=model,
            engine_id=engine_id,
            state="absent" if place is None else place.state,
            pinned=ref in pinned,
            in_use=0 if place is None else place.leases,
            hits=0 if place is None else place.hits,
            load_seconds=None if place is None else place.load_seconds,
            last_used_at=None if used_at is None else int(used_at),
            parity=await asyncio.to_thread(parity_in, self._store, ref, self._base, held),
        )


async def _named(session: AsyncSession, ref: RevisionRef) -> tuple[str | None, int | None]:
    """Find a revision's callable name and its number."""
    found = await RevisionRepository(session).revision(ref.tenant, ref.adapter, ref.digest)
    return None if found is None else found[0].name, await EngineIds(session).find(ref)


async def served(engine: Engine) -> Held | None:
    """Tell how the base is held where it answers; None while no engine does."""
    status = await _status(engine)
    return None if status is None else _held(status)


async def _status(engine: Engine) -> EngineStatus | None:
    try:
        return await engine.status()
    except EngineUnavailable:
        return None


def _held(status: EngineStatus) -> Held | None:
    if status.quantization is None or status.compute_dtype is None:
        return None
    return Held(quantization=status.quantization, compute_dtype=status.compute_dtype)


def _totals(status: EngineStatus, pinned: list[RevisionRef]) -> ResidencyTotals:
    return ResidencyTotals(
        resident=len(status.resident),
        loading=len(status.residents) - len(status.resident),
        pinned=len(pinned),
        hits=status.adapter_hits,
        misses=status.adapter_misses,
        loads=status.adapter_loads,
        load_failures=status.adapter_load_failures,
        load_seconds=status.adapter_load_times.seconds,
        evictions=status.adapter_evictions,
    )
