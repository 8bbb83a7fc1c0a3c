"""A revision as a tar of its files and its manifest: the same bytes whenever it is asked for."""

import hashlib
import io
import os
from collections.abc import Iterator
from tarfile import BLOCKSIZE, GNU_FORMAT, TarInfo
from typing import BinaryIO

import msgspec

from adapters_store import manifest
from adapters_store.errors import RevisionNotFound
from adapters_store.files import CHUNK
from adapters_store.layout import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE
from adapters_store.store import Revision

_END = bytes(2 * BLOCKSIZE)
_MODE = 0o644


class Archive(msgspec.Struct, frozen=True):
    """An archive to be read once, and then closed. It holds on to its revision's files."""

    revision: Revision
    parts: list[tuple[TarInfo, BinaryIO]]
    tag: str
    """sha256 of the manifest: archives with equal tags are equal."""

    @property
    def size(self) -> int:
        """How long it is."""
        padded = (BLOCKSIZE + header.size + -header.size % BLOCKSIZE for header, _ in self.parts)
        return sum(padded) + len(_END)

    def chunks(self) -> Iterator[bytes]:
        """Give its bytes, a block of memory at a time; blocks."""
        for header, content in self.parts:
            yield header.tobuf(GNU_FORMAT)
            while chunk := content.read(CHUNK):
                yield chunk
            yield bytes(-header.size % BLOCKSIZE)
        yield _END

    def close(self) -> None:
        """Let go of the files."""
        for _, content in self.parts:
            content.close()


def archive(revision: Revision) -> Archive:
    """Begin to archive an opened revision: deleting it changes nothing from now on.

    Raises RevisionNotFound if it was deleted since it was opened.
    """
    described = manifest.encode(revision.manifest)
    try:
        document = (revision.path / CONFIG_FILE).read_bytes()
        weights = (revision.path / WEIGHTS_FILE).open("rb")
    except FileNotFoundError:
        raise RevisionNotFound(f"{revision.ref.digest} was deleted") from None
    made = revision.manifest.created_at
    parts: list[tuple[TarInfo, BinaryIO]] = [
        (_header(CONFIG_FILE, len(document), made), io.BytesIO(document)),
        (_header(WEIGHTS_FILE, os.fstat(weights.fileno()).st_size, made), weights),
        (_header(MANIFEST_FILE, len(described), made), io.BytesIO(described)),
    ]
    return Archive(revision, parts, hashlib.sha256(described).hexdigest())


def _header(name: str, size: int, made: int) -> TarInfo:
    header = TarInfo(name)
    header.size, header.mtime, header.mode = size, made, _MODE
    return header
