"""Which requests of a tenant are being answered, so that they can be brought to an end."""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from service.errors import ServiceError
from service.http.exchange import Exchange


class _Entry:
    def __init__(self, task: "asyncio.Task[Any]", key_id: str | None, exchange: Exchange) -> None:
        self.task = task
        self.key_id = key_id
        self.exchange = exchange
        self.left = asyncio.Event()

    def cut(self, why: ServiceError) -> None:
        self.exchange.cut = why
        self.task.cancel()


class InFlight:
    """The requests of one process, by tenant."""

    def __init__(self) -> None:
        self._entries: dict[str, set[_Entry]] = {}

    @contextmanager
    def entered(self, tenant_id: str, key_id: str | None, exchange: Exchange) -> Iterator[None]:
        """Count this task's request among the tenant's; its exchange tells why it was cut short."""
        task = asyncio.current_task()
        assert task is not None
        entry = _Entry(task, key_id, exchange)
        entries = self._entries.setdefault(tenant_id, set())
        entries.add(entry)
        try:
            yield
        finally:
            entry.left.set()
            entries.discard(entry)
            if not entries and self._entries.get(tenant_id) is entries:
                del self._entries[tenant_id]

    def keys(self) -> frozenset[str]:
        """List the keys whose requests these are."""
        return frozenset(entry.key_id for entry in self._all() if entry.key_id is not None)

    def cut(self, keys: Collection[str], why: ServiceError) -> int:
        """Cancel the requests of these keys; returns how many they are."""
        entries = [entry for entry in self._all() if entry.key_id in keys]
        for entry in entries:
            entry.cut(why)
        return len(entries)

    async def end(self, tenant_id: str, grace: float, why: ServiceError) -> bool:
        """Let a tenant's requests of now end, and cancel those that have not after `grace` seconds.

        Tells whether all of them are gone, for which the cancelled ones get as long again.
        """
        late = await _leave(self._entries.get(tenant_id, set()), grace)
        for entry in late:
            entry.cut(why)
        return not await _leave(late, grace)

    def _all(self) -> list[_Entry]:
        return [entry for entries in self._entries.values() for entry in entries]


async def _leave(entries: Collection[_Entry], seconds: float) -> list[_Entry]:
    """Wait for requests to end; returns those that did not."""
    leaving = {asyncio.create_task(entry.left.wait()): entry for entry in entries}
    if not leaving:
        return []
    _, late = await asyncio.wait(leaving, timeout=seconds)
    for task in late:
        task.cancel()
    return [leaving[task] for task in late]
