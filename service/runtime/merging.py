"""Claimed merges into merged models: one at a time, each in a process of its own."""

import asyncio
import os
from collections.abc import Sequence
from functools import partial

import msgspec
import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from adapters_store import AdapterStore, StoreUnavailable
from service.adapters.merges import discard, ref_of
from service.adapters.merges_repository import MergeRepository
from service.database import Database
from service.database.leases import LeaseLost
from service.database.models import MergeRow
from service.runtime.lease import HEARTBEAT_SECONDS, Lease, claim
from service.runtime.merge_messages import MergeOrder, MergeOutcome
from service.runtime.parent import SUPERVISOR_PID
from service.telemetry import logger
from service.waiting import pass_time

IDLE_SECONDS = 0.5
"""Between two looks for a merge."""

_log = logger(__name__)


class MergeParts(msgspec.Struct, frozen=True, kw_only=True):
    """What working on merges needs."""

    owner: str
    """Holds the leases."""
    lease_seconds: float
    database: Database
    store: AdapterStore
    command: Sequence[str]
    """Merges: gets a MergeOrder on its input, and leaves a MergeOutcome on its output."""


async def work(parts: MergeParts, stop: asyncio.Event) -> None:
    """Claim merges and have them made until `stop`. No fault of a merge ends the runtime."""
    while not stop.is_set():
        merge = await claim(parts.database, partial(_take, parts))
        if merge is not None:
            await _work_on(parts, merge, stop)
        else:
            await pass_time(stop, IDLE_SECONDS)


async def _take(parts: MergeParts, session: AsyncSession) -> MergeRow | None:
    return await MergeRepository(session).claim(parts.owner, parts.lease_seconds)


async def _work_on(parts: MergeParts, merge: MergeRow, stop: asyncio.Event) -> None:
    with structlog.contextvars.bound_contextvars(tenant=merge.tenant_id, merge=merge.id):
        _log.info("merge.claimed", attempt=merge.attempts)
        try:
            async with Lease(parts.database, merge, parts.lease_seconds, MergeRepository) as lease:
                outcome = await _outcome(parts, merge, lease, stop)
                await lease.insist(partial(_end, parts, merge, outcome))
        except LeaseLost:
            await _tidy(parts, merge)
        except Exception:  # noqa: BLE001  logged, and not worth the base's process
            # The lease lapses, and somebody tries again: as often as claims allow.
            _log.exception("merge.crashed")


async def _outcome(
    parts: MergeParts, merge: MergeRow, lease: Lease, stop: asyncio.Event
) -> MergeOutcome | None:
    """Run the process to its end, or kill it at `stop`; then there is no outcome.

    Raises LeaseLost, once it is dead.
    """
    order = MergeOrder(ref_of(merge), merge.spec["base_weights"])
    process = await asyncio.create_subprocess_exec(
        *parts.command,
        env=os.environ | {SUPERVISOR_PID: str(os.getpid()), "CUDA_VISIBLE_DEVICES": ""},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    talking = asyncio.create_task(process.communicate(msgspec.json.encode(order)))
    try:
        while not (talking.done() or stop.is_set() or lease.lost):
            await asyncio.wait({talking}, timeout=HEARTBEAT_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
        answer, _ = await talking
    lease.check()
    if process.returncode == 0:
        return msgspec.json.decode(answer, type=MergeOutcome)
    if not stop.is_set():
        raise ChildProcessError(f"the process that merged ended with {process.returncode}")
    return None


async def _end(parts: MergeParts, merge: MergeRow, outcome: MergeOutcome | None) -> None:
    held = (merge.id, merge.lease_token)
    async with parts.database.write() as session:
        merges = MergeRepository(session)
        if outcome is None:
            await merges.requeue(*held)
        elif outcome.result is not None:
            await merges.succeed(*held, outcome.result)
        elif outcome.error is not None:
            await merges.fail(*held, outcome.error.code, outcome.error.message)
    _log.info("merge.requeued" if outcome is None else "merge.finished")


async def _tidy(parts: MergeParts, merge: MergeRow) -> None:
    """Let go of a merge; of one that was cancelled, remove what was just published."""
    async with parts.database.read() as session:
        status = await session.scalar(select(MergeRow.status).where(MergeRow.id == merge.id))
    if status not in (None, "cancelled"):
        # The files are the new holder's.
        _log.warning("merge.lease_lost")
        return
    _log.info("merge.cancelled")
    try:
        await asyncio.to_thread(discard, parts.store, ref_of(merge))
    except StoreUnavailable as fault:
        # Whoever deletes the merge removes them.
        _log.error("merge.files_left", error=str(fault))
    async with parts.database.write() as session:
        await MergeRepository(session).let_go(merge.id, parts.owner)
