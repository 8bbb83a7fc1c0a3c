"""Which requests of a tenant are being answered, so that they can be brought to an end."""

import asyncio
from collections.abc import Collection, Iterator
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
        """Let a tenant's requests of now end, and cancel those that have not after `grace` seconds.

        Tells whether all of them are gone, for which the cancelled ones get as long again.
        """
        late = await _leave(self._entries.get(tenant_id, set()), grace)
        for entry in late:
            entry.ended = True
            entry.task.cancel()
        return not await _leave(late, grace)


async def _leave(entries: Collection[_Entry], seconds: float) -> list[_Entry]:
    """Wait for requests to end; returns those that did not."""
    leaving = {asyncio.create_task(entry.left.wait()): entry for entry in entries}
    if not leaving:
        return []
    _, late = await asyncio.wait(leaving, timeout=seconds)
    for task in late:
        task.cancel()
    return [leaving[task] for task in late]
