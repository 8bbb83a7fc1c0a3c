"""A tenant's files: keep, show, give back, forget."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from service.database import Database
from service.database.models import FileRow
from service.datasets.folder import FileFolder
from service.datasets.inspection import examples_of, inspect
from service.datasets.present import file_of
from service.datasets.receive import Received
from service.datasets.repository import FileRepository, not_found
from service.datasets.schemas import FINE_TUNE, File, Purpose
from service.errors import DatabaseUnavailable, ServiceError
from service.rendering.examples import Example
from service.rendering.renderer import Renderer
from service.telemetry import logger
from service.tenants.deeds import made
from service.tenants.quotas import Quotas, Use
from service.wire import new_id, now

log = logger(__name__)

MOST_INSPECTIONS = 2


class FileService:
    """Files are immutable: their bytes come first, their row after, and they go the other way.

    `root` is the data folder.
    """

    def __init__(
        self,
        database: Database,
        root: Path,
        renderer: Renderer,
        max_file_bytes: int,
        quotas: Quotas,
    ) -> None:
        self._database = database
        self.quotas = quotas
        self._renderer = renderer
        self.folder = FileFolder(root)
        self.max_file_bytes = max_file_bytes
        # A large file takes minutes: a few of them must not take every thread there is.
        self._inspecting = asyncio.Semaphore(MOST_INSPECTIONS)

    async def expecting(self, tenant_id: str) -> None:
        """Check, before a file's bytes are taken, that there is room. Raises QuotaExceeded."""
        await self.sweep()
        async with self._database.read() as session:
            await self.quotas.glance(session, tenant_id, Use(files=1, stored_bytes=1))

    async def create(
        self, tenant_id: str, received: Received, purpose: Purpose, expires_after: int | None
    ) -> File:
        """Keep a received file. Raises InvalidTrainingFile and QuotaExceeded: nothing is kept."""
        file = await self.prepare(tenant_id, received, purpose, expires_after)
        try:
            async with self._database.write() as session:
                wanted = Use(files=1, stored_bytes=file.bytes)
                await self.quotas.admit(session, tenant_id, wanted)
                await FileRepository(session).add(file)
                shown = made(file_of(file))
        except DatabaseUnavailable:
            # Its answer may be what was lost: a row that is there all the same needs its bytes.
            raise
        except ServiceError:
            await asyncio.to_thread(self.folder.remove_file, tenant_id, file.id)
            raise
        log.info("file.created", file=file.id, bytes=file.bytes, rows=file.rows)
        return shown

    async def prepare(
        self, tenant_id: str, received: Received, purpose: Purpose, expires_after: int | None
    ) -> FileRow:
        """Check a received file and put its bytes in place; it exists once its row is added.

        Without a row its bytes are swept away at the next start.
        """
        summary = None
        if purpose == FINE_TUNE:
            async with self._inspecting:
                summary = await asyncio.to_thread(inspect, received.path, self._renderer)
        file_id, created_at = new_id("file-"), now()
        place = self.folder.file(tenant_id, file_id)
        await asyncio.to_thread(self.folder.keep, received.path, place)
        return FileRow(
            id=file_id,
            tenant_id=tenant_id,
            filename=received.filename,
            purpose=purpose,
            bytes=received.bytes,
            sha256=received.sha256,
            created_at=created_at,
            expires_at=None if expires_after is None else created_at + expires_after,
            row_format=summary and summary.format,
            rows=summary and summary.rows,
            tokens=summary and summary.tokens,
            longest_example=summary and summary.longest_example,
        )

    async def retrieve(self, tenant_id: str, file_id: str) -> FileRow:
        """Find a file; raises NotFound."""
        async with self._database.read() as session:
            return await FileRepository(session).get(tenant_id, file_id)

    async def page(
        self, tenant_id: str, *, purpose: str | None, after: str | None, limit: int, newest: bool
    ) -> tuple[Sequence[FileRow], bool]:
        """List files, and tell whether there are more behind the last."""
        async with self._database.read() as session:
            files = await FileRepository(session).page(
                tenant_id, purpose=purpose, after=after, limit=limit + 1, newest=newest
            )
        return files[:limit], len(files) > limit

    async def open(self, tenant_id: str, file_id: str) -> tuple[FileRow, BinaryIO]:
        """Open a file's bytes, which the caller closes; raises NotFound."""
        file = await self.retrieve(tenant_id, file_id)
        path = self.folder.file(tenant_id, file_id)
        try:
            return file, await asyncio.to_thread(path.open, "rb")
        except FileNotFoundError:  # deleted since the row was read
            raise not_found(file_id) from None

    async def examples(self, tenant_id: str, file_id: str) -> list[Example]:
        """Read a training file's examples, even past its expiry: its job was accepted before.

        Raises NotFound, and InvalidTrainingFile when it is none.
        """
        async with self._database.read() as session:
            await FileRepository(session).get_even_expired(tenant_id, file_id)
        return await asyncio.to_thread(examples_of, self.folder.file(tenant_id, file_id))

    async def delete(self, tenant_id: str, file_id: str) -> None:
        """Delete a file. Raises NotFound, and Conflict while an unfinished job needs it."""
        async with self._database.write() as session:
            await FileRepository(session).delete(tenant_id, file_id)
        await asyncio.to_thread(self.folder.remove_file, tenant_id, file_id)
        log.info("file.deleted", file=file_id)

    async def sweep(self) -> None:
        """Remove the files that have expired, except those that unfinished jobs need."""
        async with self._database.upkeep() as session:
            gone = await FileRepository(session).forget_expired()
        for tenant_id, file_id in gone:
            await asyncio.to_thread(self.folder.remove_file, tenant_id, file_id)
            log.info("file.expired", tenant=tenant_id, file=file_id)

    async def clean(self) -> None:
        """At start, before any request: remove what a crash left without a row, and sweep."""
        await asyncio.to_thread(self.folder.empty_incoming)
        await self.sweep()
        stored = await asyncio.to_thread(self.folder.stored_files)
        for tenant_id, ids in stored.items():
            async with self._database.read() as session:
                known = await FileRepository(session).known(tenant_id)
            for orphan in set(ids) - known:
                await asyncio.to_thread(self.folder.remove_file, tenant_id, orphan)
                log.warning("file.orphan_removed", tenant=tenant_id, file=orphan)
