"""Rows as the objects that clients see."""

from collections.abc import Sequence
from typing import cast

from service.database.models import FileRow, UploadPartRow, UploadRow
from service.datasets.schemas import File, FileList
from service.datasets.uploads_schemas import Upload, UploadPart, UploadStatus
from service.rendering.examples import RowFormat
from service.wire import page


def file_of(row: FileRow) -> File:
    """Show a file."""
    return File(
        id=row.id,
        object="file",
        bytes=row.bytes,
        created_at=row.created_at,
        expires_at=row.expires_at,
        filename=row.filename,
        purpose=row.purpose,
        status="processed",
        status_details=None,
        format=cast("RowFormat | None", row.row_format),
        rows=row.rows,
        tokens=row.tokens,
        longest_example=row.longest_example,
    )


def page_of(rows: Sequence[FileRow], has_more: bool) -> FileList:
    """Show a page of files."""
    return page(FileList, [file_of(row) for row in rows], has_more=has_more)


def upload_of(row: UploadRow, file: FileRow | None) -> Upload:
    """Show an upload, and the file that it became."""
    return Upload(
        id=row.id,
        object="upload",
        bytes=row.bytes,
        created_at=row.created_at,
        expires_at=row.expires_at,
        filename=row.filename,
        purpose=row.purpose,
        status=cast("UploadStatus", row.status),
        file=None if file is None else file_of(file),
    )


def part_of(row: UploadPartRow) -> UploadPart:
    """Show a part."""
    return UploadPart(
        id=row.id, object="upload.part", created_at=row.created_at, upload_id=row.upload_id
    )
