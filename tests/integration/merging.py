"""What the tests of merges share: a revision, and a runtime that works on merges of it."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from adapters_store import AdapterStore
from service.database import Database
from service.runtime import merging
from tests.builders import a_peft_folder, an_origin
from tests.integration.aliasing import ADAPTERS, record

MERGES = f"{ADAPTERS}/merges"
LEASE_SECONDS = 1.0


class Mill:
    """A tenant's revision, and runtimes that merge it."""

    def __init__(
        self, client: httpx.AsyncClient, database: Database, store: AdapterStore, root: Path
    ) -> None:
        self.client, self.database, self.store, self.root = client, database, store, root
        self.rev = ""

    async def publish(self, tenant: str = "acme") -> str:
        """Make a revision of the adapter `support`; its short digest."""
        folder = a_peft_folder(self.root / "staged")
        digest = self.store.publish(tenant, "support", folder, an_origin()).ref.digest
        await record(self.database, digest, tenant=tenant)
        self.rev = digest[:8]
        return digest

    async def ask(self, **body: Any) -> dict[str, Any]:
        """Ask for a merge; it as it is then."""
        url = f"{ADAPTERS}/support/revisions/{self.rev}/merge"
        answer = await self.client.post(url, json=body)
        assert answer.status_code == 202, answer.text
        made: dict[str, Any] = answer.json()
        return made

    async def get(self, merge: str) -> dict[str, Any]:
        """Show a merge."""
        answer = await self.client.get(f"{MERGES}/{merge}")
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] = answer.json()
        return shown

    async def until(
        self, merge: str, condition: Callable[[dict[str, Any]], bool]
    ) -> dict[str, Any]:
        """Wait until a merge is so."""
        async with asyncio.timeout(60):
            while not condition(shown := await self.get(merge)):  # noqa: ASYNC110  it is a row
                await asyncio.sleep(0.02)
            return shown

    async def ended(self, merge: str) -> dict[str, Any]:
        """Wait for a merge's end."""
        return await self.until(merge, lambda shown: shown["finished_at"] is not None)

    @asynccontextmanager
    async def working(self, how: str, owner: str = "runtime-1") -> AsyncIterator[None]:
        """Run a runtime's loop, whose processes behave as `how` says."""
        where = str(self.root / "data" / "adapters")
        parts = merging.MergeParts(
            owner=owner,
            lease_seconds=LEASE_SECONDS,
            database=self.database,
            store=self.store,
            command=[sys.executable, "-m", "tests.fakes.merger", how, where],
        )
        stop = asyncio.Event()
        loop = asyncio.create_task(merging.work(parts, stop))
        try:
            yield
        finally:
            stop.set()
            await loop
