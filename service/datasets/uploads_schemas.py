"""`/v1/uploads` on the wire: a file that arrives in parts."""

from typing import Annotated, Literal

from msgspec import Meta

from service.datasets.schemas import ExpiresAfter, File, Purpose
from service.wire import Input, Output

UploadStatus = Literal["pending", "completed", "cancelled", "expired"]


class CreateUpload(Input):
    """What will come."""

    filename: Annotated[str, Meta(min_length=1, max_length=4096)]
    purpose: Purpose
    bytes: Annotated[int, Meta(ge=1, description="The size of the whole file.")]
    mime_type: Annotated[str, Meta(max_length=128)]
    expires_after: ExpiresAfter | None = None


class CompleteUpload(Input):
    """The parts, in the order of the file, and optionally the MD5 digest of the whole in hex."""

    part_ids: Annotated[list[str], Meta(min_length=1)]
    md5: str | None = None


class Upload(Output):
    """A file that is arriving; `file` is there once it is completed."""

    id: str
    object: Literal["upload"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: UploadStatus
    file: File | None


class UploadPart(Output):
    """A part that has arrived."""

    id: str
    object: Literal["upload.part"]
    created_at: int
    upload_id: str
