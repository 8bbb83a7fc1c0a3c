"""The rows of a tenant's uploads and their parts."""

from collections.abc import Sequence

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.models import UploadPartRow, UploadRow
from service.errors import Conflict, NotFound
from service.wire import now

PENDING, COMPLETED, CANCELLED, EXPIRED = "pending", "completed", "cancelled", "expired"


class UploadRepository:
    """Rows only; the parts' bytes are in the data folder."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def add(self, row: UploadRow | UploadPartRow) -> None:
        """Keep a new upload or part."""
        self.session.add(row)
        await self.session.flush()

    async def get(self, tenant_id: str, upload_id: str, *, lock: bool = False) -> UploadRow:
        """Find a tenant's upload; `lock` before changing it. Raises NotFound."""
        query = select(UploadRow).where(UploadRow.tenant_id == tenant_id, UploadRow.id == upload_id)
        upload = await self.session.scalar(query.with_for_update() if lock else query)
        if upload is None:
            raise NotFound(f"No such Upload object: {upload_id}", param="upload_id")
        return upload

    async def pending(self, tenant_id: str, upload_id: str, *, lock: bool = False) -> UploadRow:
        """Find an upload that still takes parts; raises NotFound and Conflict."""
        upload = await self.get(tenant_id, upload_id, lock=lock)
        late = upload.status == PENDING and upload.expires_at <= now()
        status = EXPIRED if late else upload.status
        if status != PENDING:
            raise Conflict(f"Upload {upload_id} is {status}, not pending.", param="upload_id")
        return upload

    async def parts(self, upload: UploadRow) -> Sequence[UploadPartRow]:
        """List the parts that have arrived."""
        query = select(UploadPartRow).where(
            UploadPartRow.tenant_id == upload.tenant_id, UploadPartRow.upload_id == upload.id
        )
        return (await self.session.scalars(query)).all()

    async def arrived(self, upload: UploadRow) -> int:
        """Add up the bytes that have arrived."""
        query = select(func.coalesce(func.sum(UploadPartRow.bytes), 0)).where(
            UploadPartRow.tenant_id == upload.tenant_id, UploadPartRow.upload_id == upload.id
        )
        return int(await self.session.scalar(query) or 0)

    async def finish(self, upload: UploadRow, status: str, file_id: str | None = None) -> None:
        """End an upload; its parts are forgotten."""
        upload.status, upload.file_id = status, file_id
        await self.session.execute(
            delete(UploadPartRow).where(
                UploadPartRow.tenant_id == upload.tenant_id, UploadPartRow.upload_id == upload.id
            )
        )

    async def expire(self) -> list[tuple[str, str]]:
        """Mark every tenant's pending uploads that are late; returns (tenant, upload id)."""
        late = update(UploadRow).where(UploadRow.status == PENDING, UploadRow.expires_at <= now())
        gone = await self.session.execute(
            late.values(status=EXPIRED).returning(UploadRow.tenant_id, UploadRow.id)
        )
        expired = [(tenant, upload) for tenant, upload in gone]
        ids = [upload for _, upload in expired]
        await self.session.execute(delete(UploadPartRow).where(UploadPartRow.upload_id.in_(ids)))
        return expired

    async def all_pending(self, tenant_id: str) -> frozenset[str]:
        """List the ids of a tenant's pending uploads."""
        query = select(UploadRow.id).where(
            UploadRow.tenant_id == tenant_id, UploadRow.status == PENDING
        )
        return frozenset(await self.session.scalars(query))
