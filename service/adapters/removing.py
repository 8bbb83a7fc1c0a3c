"""Taking a revision's files away so that no row ever speaks of files that are gone.

Who publishes holds the tenant's lock beside others, from before the files until the row is written
(`publishing`). Who removes holds it alone, and looks for a row once it has it. No file is touched
within a transaction. docs/decisions/0015 says why it is so.
"""

import asyncio
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from enum import Enum, auto
from typing import TypeVar

from adapters_store import AdapterStore, RevisionNotFound, RevisionRef, StoreUnavailable
from service.adapters.leases import Leases
from service.adapters.repository import RevisionRepository
from service.database import Database
from service.telemetry import logger

T = TypeVar("T")

log = logger(__name__)


def publishing(database: Database, tenant_id: str) -> AbstractAsyncContextManager[None]:
    """Keep every remover out while files are put into the store and a row is made of them."""
    return database.locks.shared(_lock(tenant_id))


def removing_alone(database: Database, tenant_id: str) -> AbstractAsyncContextManager[bool]:
    """Keep every publisher out while files are removed, if none is at work: tells whether so."""
    return database.locks.alone(_lock(tenant_id))


class _End(Enum):
    """How a removal ended. What is left is somebody's, or the collector's."""

    REMOVED = auto()
    HELD = auto()
    LEFT = auto()


class Remover:
    """Removes files that no row speaks of and no request of this process needs."""

    def __init__(self, database: Database, store: AdapterStore, leases: Leases) -> None:
        self.database = database
        self.store = store
        self.leases = leases
        self._waiting: set[asyncio.Task[None]] = set()

    async def remove(self, ref: RevisionRef) -> bool:
        """Remove a revision's files; False where somebody needs them, or is publishing."""
        return await self._remove(ref) is _End.REMOVED

    async def remove_when_free(self, ref: RevisionRef) -> None:
        """Remove the files of a revision whose row has gone: now, or when its last lease ends.

        What cannot be removed then is the collector's.
        """
        if await self._remove(ref) is _End.HELD:
            task = asyncio.create_task(self._wait_and_remove(ref))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)

    async def close(self) -> None:
        """Wait for no lease any more: the collector does so after the next start."""
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)

    async def _wait_and_remove(self, ref: RevisionRef) -> None:
        await self._free(ref)
        while await self._remove(ref) is _End.HELD:
            await self._free(ref)

    async def _remove(self, ref: RevisionRef) -> _End:
        async with removing_alone(self.database, ref.tenant) as got:
            # The row first: a lease that is opened once there is none does not find the revision.
            if not got or await self._spoken_of(ref):
                return _End.LEFT
            # Said once: asked again, the lease may have ended, and nobody would remove the files.
            if self.leases.held(ref):
                return _End.HELD
            gone = await unbroken(asyncio.to_thread(self._delete, ref))
            return _End.REMOVED if gone else _End.LEFT

    async def _free(self, ref: RevisionRef) -> None:
        loop, free = asyncio.get_running_loop(), asyncio.Event()
        # A lease may be let go in any thread.
        self.leases.when_free(ref, lambda: loop.call_soon_threadsafe(free.set))
        await free.wait()

    async def _spoken_of(self, ref: RevisionRef) -> bool:
        async with self.database.read() as session:
            row = await RevisionRepository(session).row(ref.tenant, ref.adapter, ref.digest)
        return row is not None

    def _delete(self, ref: RevisionRef) -> bool:
        try:
            self.store.delete(ref)
        except RevisionNotFound:
            log.warning("revision.files_were_gone", tenant=ref.tenant, adapter=ref.adapter)
        except StoreUnavailable as fault:
            log.error("revision.files_left", tenant=ref.tenant, digest=ref.digest, error=str(fault))
            return False
        return True


async def unbroken(work: Awaitable[T]) -> T:
    """Wait for the end also when cancelled: a lock that is let go before would keep nobody out."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _lock(tenant_id: str) -> str:
    return f"publish/{tenant_id}"
