"""The parts of an upload, put together."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from service.database.models import UploadPartRow, UploadRow
from service.datasets.receive import Received
from service.errors import BadRequest

COPY_BYTES = 1024 * 1024


def chosen(parts: Sequence[UploadPartRow], part_ids: Sequence[str]) -> list[UploadPartRow]:
    """Put the parts into the order asked for; raises BadRequest for a strange or repeated one."""
    known = {part.id: part for part in parts}
    strange = [part_id for part_id in part_ids if part_id not in known]
    if strange:
        raise BadRequest(f"The upload has no part {strange[0]!r}.", param="part_ids")
    if len(set(part_ids)) < len(part_ids):
        raise BadRequest("'part_ids' names a part twice.", param="part_ids")
    return [known[part_id] for part_id in part_ids]


def check_size(upload: UploadRow, parts: Sequence[UploadPartRow]) -> None:
    """Hold the parts to the announced size; raises BadRequest."""
    total = sum(part.bytes for part in parts)
    if total != upload.bytes:
        raise BadRequest(
            f"The parts have {total} bytes together, but the upload was created for "
            f"{upload.bytes}.",
            param="part_ids",
        )


def assemble(parts: Sequence[Path], path: Path, filename: str, md5: str | None) -> Received:
    """Write the parts, one after the other, to `path`; blocks.

    Raises BadRequest when the whole has not the MD5 digest that the client knows.
    """
    sha256, check = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    size = 0
    with path.open("wb") as out:
        for part in parts:
            with part.open("rb") as stream:
                while data := stream.read(COPY_BYTES):
                    size += out.write(data)
                    sha256.update(data)
                    check.update(data)
        out.flush()
        os.fsync(out.fileno())
    if md5 is not None and md5.lower() != check.hexdigest():
        raise BadRequest("The file has another MD5 digest than 'md5'.", param="md5")
    return Received(path, filename, size, sha256.hexdigest())
