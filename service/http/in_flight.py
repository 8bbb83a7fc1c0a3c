"""Which requests of a tenant are being answered, so that they can be brought to an end."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Entry:
    def __init__(self, task: "asyncio.Task[Any]") -> None:
        self.task = task
        self.left = asyncio.Event()
        self.ended = False


class InFlight:
    """The requests of one process, by tenant."""

    def __init__(self) -> None:
        self._entries: dict[str, set[_Entry]] = {}

    @contextmanager
    def entered(self, tenant_id: str) -> Iterator[_Entry]:
        """Count this task's request among the tenant's; its `ended` tells that it was cut short."""
        task = asyncio.current_task()
        assert task is not None
        entry = _Entry(task)
        entries = self._entries.setdefault(tenant_id, set())
        entries.add(entry)
        try:
            yield entry
        finally:
            entry.left.set()
            entries.discard(entry)
            if not entries and self._entries.get(tenant_id) is entries:
                del self._entries[tenant_id]

    async def end(self, tenant_id: str, grace: float) -> bool:
        """Let a tenant's requests end, and cancel those that have not after `grace` seconds.

        Tells whether all are gone, for which the cancelled ones get as long again.
        """
        await self._leave(tenant_id, grace)
        for entry in self._entries.get(tenant_id, set()):
            entry.ended = True
            entry.task.cancel()
        await self._leave(tenant_id, grace)
        return tenant_id not in self._entries

    async def _leave(self, tenant_id: str, seconds: float) -> None:
        leaving = [asyncio.create_task(e.left.wait()) for e in self._entries.get(tenant_id, ())]
        if leaving:
            _, late = await asyncio.wait(leaving, timeout=seconds)
            for task in late:
                task.cancel()
