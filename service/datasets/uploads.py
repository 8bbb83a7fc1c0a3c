"""Uploads: files that arrive in parts, and become files like any other."""

import asyncio

from sqlalchemy.ext.asyncio import AsyncSession

from service.database import Database
from service.database.models import FileRow, UploadPartRow, UploadRow
from service.datasets.assembly import assemble, check_size, chosen
from service.datasets.present import part_of, upload_of
from service.datasets.receive import Received, displayable
from service.datasets.repository import FileRepository
from service.datasets.schemas import PURPOSES
from service.datasets.service import FileService
from service.datasets.uploads_repository import CANCELLED, COMPLETED, PENDING, UploadRepository
from service.datasets.uploads_schemas import CompleteUpload, CreateUpload, Upload, UploadPart
from service.errors import Conflict, NotFound, TooLarge
from service.telemetry import logger
from service.tenants.deeds import made
from service.tenants.quotas import Use
from service.wire import new_id, now

log = logger(__name__)

MAX_PART_BYTES = 64 * 1024 * 1024
LIFETIME_SECONDS = 3600


class UploadService:
    """Creating again, completing again and cancelling again are safe: SDKs retry."""

    def __init__(self, database: Database, files: FileService) -> None:
        self._database = database
        self._files = files
        self.folder = files.folder

    async def create(self, tenant_id: str, body: CreateUpload) -> Upload:
        """Announce a file. Raises TooLarge when it never would be accepted, and QuotaExceeded."""
        if body.bytes > self._files.max_file_bytes:
            raise TooLarge(
                f"'bytes' is larger than {self._files.max_file_bytes}, the server's "
                "LOREHOUSE_MAX_FILE_BYTES.",
                param="bytes",
            )
        await self.sweep()
        created_at = now()
        after = body.expires_after
        upload = UploadRow(
            id=new_id("upload_"),
            tenant_id=tenant_id,
            filename=displayable(body.filename),
            purpose=body.purpose,
            bytes=body.bytes,
            mime_type=body.mime_type,
            status=PENDING,
            created_at=created_at,
            expires_at=created_at + LIFETIME_SECONDS,
            file_expires_after=None if after is None else after.seconds,
        )
        async with self._database.write() as session:
            # Its room is its own from here on: completing it asks for nothing more.
            wanted = Use(files=1, stored_bytes=body.bytes)
            await self._files.quotas.admit(session, tenant_id, wanted)
            await UploadRepository(session).add(upload)
            return made(upload_of(upload, None))

    async def expecting(self, tenant_id: str, upload_id: str) -> None:
        """Check, before a part's bytes are taken, that they are wanted."""
        async with self._database.read() as session:
            await UploadRepository(session).pending(tenant_id, upload_id)

    async def add_part(self, tenant_id: str, upload_id: str, received: Received) -> UploadPart:
        """Keep a received part. Raises NotFound, Conflict, and TooLarge when it is too much."""
        part = UploadPartRow(
            id=new_id("part_"),
            tenant_id=tenant_id,
            upload_id=upload_id,
            bytes=received.bytes,
            created_at=now(),
        )
        place = self.folder.part(tenant_id, upload_id, part.id)
        await asyncio.to_thread(self.folder.keep, received.path, place)
        try:
            async with self._database.write() as session:
                uploads = UploadRepository(session)
                upload = await uploads.pending(tenant_id, upload_id, lock=True)
                # Room for one part more than announced: a client sends one again when the answer
                # to it was lost.
                if await uploads.arrived(upload) + part.bytes > upload.bytes + MAX_PART_BYTES:
                    message = f"The parts are larger than the {upload.bytes} bytes announced."
                    raise TooLarge(message, param="data")
                await uploads.add(part)
                return made(part_of(part))
        except Exception:
            await asyncio.to_thread(place.unlink, missing_ok=True)
            raise

    async def complete(
        self, tenant_id: str, upload_id: str, body: CompleteUpload
    ) -> tuple[UploadRow, FileRow | None]:
        """Put the parts together into a file, which is checked like any other.

        Raises BadRequest when parts, size or digest are wrong, and InvalidTrainingFile; the
        upload then stays as it was.
        """
        async with self._database.read() as session:
            uploads = UploadRepository(session)
            upload = await uploads.get(tenant_id, upload_id)
            if upload.status == COMPLETED:
                return upload, await _file(session, upload)
            upload = await uploads.pending(tenant_id, upload_id)
            parts = chosen(await uploads.parts(upload), body.part_ids)
        check_size(upload, parts)
        file = await self._assembled(upload, parts, body.md5)
        upload = await self._finish(upload, file)
        await asyncio.to_thread(self.folder.remove_upload, tenant_id, upload_id)
        log.info("upload.completed", upload=upload_id, file=file.id)
        return upload, file

    async def cancel(self, tenant_id: str, upload_id: str) -> UploadRow:
        """Cancel an upload and drop its parts. Raises NotFound and Conflict."""
        async with self._database.write() as session:
            uploads = UploadRepository(session)
            upload = await uploads.get(tenant_id, upload_id, lock=True)
            if upload.status != CANCELLED:
                upload = await uploads.pending(tenant_id, upload_id, lock=True)
                await uploads.finish(upload, CANCELLED)
        await asyncio.to_thread(self.folder.remove_upload, tenant_id, upload_id)
        return upload

    async def sweep(self) -> None:
        """Let the uploads expire that are late, with their parts."""
        async with self._database.upkeep() as session:
            expired = await UploadRepository(session).expire()
        for tenant_id, upload_id in expired:
            await asyncio.to_thread(self.folder.remove_upload, tenant_id, upload_id)
            log.info("upload.expired", tenant=tenant_id, upload=upload_id)

    async def clean(self) -> None:
        """At start, before any request: sweep, and remove what a crash left."""
        await self.sweep()
        stored = await asyncio.to_thread(self.folder.stored_uploads)
        for tenant_id, ids in stored.items():
            async with self._database.read() as session:
                pending = await UploadRepository(session).all_pending(tenant_id)
            for orphan in set(ids) - pending:
                await asyncio.to_thread(self.folder.remove_upload, tenant_id, orphan)

    async def _assembled(
        self, upload: UploadRow, parts: list[UploadPartRow], md5: str | None
    ) -> FileRow:
        tenant_id = upload.tenant_id
        places = [self.folder.part(tenant_id, upload.id, part.id) for part in parts]
        with self.folder.temporary() as path:
            received = await asyncio.to_thread(assemble, places, path, upload.filename, md5)
            purpose = next(known for known in PURPOSES if known == upload.purpose)
            return await self._files.prepare(
                tenant_id, received, purpose, upload.file_expires_after
            )

    async def _finish(self, upload: UploadRow, file: FileRow) -> UploadRow:
        try:
            async with self._database.write() as session:
                uploads = UploadRepository(session)
                upload = await uploads.pending(upload.tenant_id, upload.id, lock=True)
                await FileRepository(session).add(file)
                await uploads.finish(upload, COMPLETED, file.id)
        except Conflict:  # completed or cancelled meanwhile
            await asyncio.to_thread(self.folder.remove_file, file.tenant_id, file.id)
            raise
        return upload


async def _file(session: AsyncSession, upload: UploadRow) -> FileRow | None:
    try:
        return await FileRepository(session).get(upload.tenant_id, upload.file_id or "")
    except NotFound:  # deleted since
        return None
