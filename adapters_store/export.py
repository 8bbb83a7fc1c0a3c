"""A revision as a tar of its files and its manifest: the same bytes whenever it is asked for."""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from tarfile import BLOCKSIZE, GNU_FORMAT, TarInfo
from typing import BinaryIO

import msgspec

from adapters_store import files, manifest
from adapters_store.files import CHUNK
from adapters_store.layout import CONTENT_FILES, MANIFEST_FILE
from adapters_store.store import Revision

_END = bytes(2 * BLOCKSIZE)
_MODE = 0o644


class Archive(msgspec.Struct, frozen=True):
    """An archive to be read once. It holds on to its revision, so that the files stay."""

    revision: Revision
    parts: list[tuple[TarInfo, BinaryIO]]
    tag: str
    """sha256 of the manifest: archives with equal tags are equal."""

    @property
    def bytes(self) -> int:
        """How long it is."""
        padded = (BLOCKSIZE + header.size + -header.size % BLOCKSIZE for header, _ in self.parts)
        return sum(padded) + len(_END)

    def chunks(self) -> Iterator[bytes]:
        """Give its bytes, a block of memory at a time, and close it; blocks."""
        try:
            for header, content in self.parts:
                yield header.tobuf(GNU_FORMAT)
                while chunk := content.read(CHUNK):
                    yield chunk
                yield bytes(-header.size % BLOCKSIZE)
            yield _END
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the files."""
        for _, content in self.parts:
            content.close()


def archive(revision: Revision) -> Archive:
    """Begin to archive an opened revision: from now on deleting it changes nothing."""
    described = manifest.encode(revision.manifest)
    streams = [(name, _open(revision.path / name)) for name in CONTENT_FILES]
    streams.append((MANIFEST_FILE, io.BytesIO(described)))
    sizes = {name: entry.bytes for name, entry in revision.manifest.files.items()}
    made = revision.manifest.created_at
    parts = [
        (_header(name, sizes.get(name, len(described)), made), stream) for name, stream in streams
    ]
    return Archive(revision, parts, hashlib.sha256(described).hexdigest())
