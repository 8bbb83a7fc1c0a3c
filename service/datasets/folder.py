"""Where the bytes of files lie, and how they get there whole. All methods block."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.wire import new_id


class FileFolder:
    """`files/{tenant}/{file}`, `uploads/{tenant}/{upload}/{part}`, and `incoming/` before them.

    What is in `incoming/` is nobody's: it is thrown away when its request ends, or at the start.
    """

    def __init__(self, root: Path) -> None:
        self._files = root / "files"
        self._uploads = root / "uploads"
        self._incoming = root / "incoming"

    @contextmanager
    def temporary(self) -> Iterator[Path]:
        """Give a path to write to; what is still there at the end disappears."""
        self._incoming.mkdir(parents=True, exist_ok=True)
        path = self._incoming / new_id("incoming-")
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def file(self, tenant_id: str, file_id: str) -> Path:
        """Say where a file lies."""
        return self._files / tenant_id / file_id

    def part(self, tenant_id: str, upload_id: str, part_id: str) -> Path:
        """Say where a part of an upload lies."""
        return self._uploads / tenant_id / upload_id / part_id

    def keep(self, written: Path, place: Path) -> None:
        """Move a written and synced file to its place, durably."""
        place.parent.mkdir(parents=True, exist_ok=True)
        written.replace(place)
        _sync_folder(place.parent)

    def remove_file(self, tenant_id: str, file_id: str) -> None:
        """Remove a file's bytes; it may be gone already."""
        self.file(tenant_id, file_id).unlink(missing_ok=True)

    def remove_upload(self, tenant_id: str, upload_id: str) -> None:
        """Remove all parts of an upload; they may be gone already."""
        shutil.rmtree(self._uploads / tenant_id / upload_id, ignore_errors=True)

    def empty_incoming(self) -> None:
        """Throw away what requests of an earlier process left."""
        shutil.rmtree(self._incoming, ignore_errors=True)

    def stored_files(self) -> dict[str, list[str]]:
        """List the file ids on disk, by tenant."""
        return _children(self._files)

    def stored_uploads(self) -> dict[str, list[str]]:
        """List the upload ids on disk, by tenant."""
        return _children(self._uploads)


def _children(folder: Path) -> dict[str, list[str]]:
    tenants = folder.iterdir() if folder.is_dir() else iter(())
    return {tenant.name: [child.name for child in tenant.iterdir()] for tenant in tenants}


def _sync_folder(folder: Path) -> None:
    # A rename is durable only once the folder that holds the name is.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
