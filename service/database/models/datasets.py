"""Files and uploads."""

from advanced_alchemy.base import DefaultBase
from sqlalchemy import BigInteger, ForeignKey, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from service.database.models.columns import numbered, of_tenant


class FileRow(DefaultBase):
    """A stored file; of a fine-tune file also what parsing found."""

    __tablename__ = "files"
    seq: Mapped[int] = numbered()
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant_id: Mapped[str] = of_tenant()
    filename: Mapped[str] = mapped_column(String(512))
    purpose: Mapped[str] = mapped_column(String(32))
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int | None] = mapped_column(BigInteger)
    row_format: Mapped[str | None] = mapped_column(String(16))
    rows: Mapped[int | None] = mapped_column(Integer)
    tokens: Mapped[int | None] = mapped_column(BigInteger)
    longest_example: Mapped[int | None] = mapped_column(Integer)


class UploadRow(DefaultBase):
    """A file that arrives in parts."""

    __tablename__ = "uploads"
    seq: Mapped[int] = numbered()
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant_id: Mapped[str] = of_tenant()
    filename: Mapped[str] = mapped_column(String(512))
    purpose: Mapped[str] = mapped_column(String(32))
    bytes: Mapped[int] = mapped_column(BigInteger)
    mime_type: Mapped[str] = mapped_column(String(128))
    status: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int] = mapped_column(BigInteger)
    file_expires_after: Mapped[int | None] = mapped_column(BigInteger)
    file_id: Mapped[str | None] = mapped_column(String(64))


class UploadPartRow(DefaultBase):
    """One part of an upload."""

    __tablename__ = "upload_parts"
    seq: Mapped[int] = numbered()
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant_id: Mapped[str] = of_tenant()
    upload_id: Mapped[str] = mapped_column(String(64), ForeignKey("uploads.id"), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[int] = mapped_column(BigInteger)
