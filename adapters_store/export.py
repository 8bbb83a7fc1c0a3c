"""A revision as a tar of its files and its manifest: the same bytes whenever it is asked for."""

import hashlib
import io
import os
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from adapters_store import manifest, tar
from adapters_store.errors import RevisionNotFound
from adapters_store.files import CHUNK
from adapters_store.layout import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE
from adapters_store.store import Revision


class Archive(msgspec.Struct, frozen=True):
    """An archive to be read once, and then closed. It holds on to its revision's files."""

    revision: Revision
    parts: list[tuple[str, int, BinaryIO]]
    """Names, sizes and contents."""
    tag: str
    """sha256 of the manifest: archives with equal tags are equal."""

    @property
    def size(self) -> int:
        """How long it is."""
        return tar.size(size for _, size, _ in self.parts)

    def chunks(self) -> Iterator[bytes]:
        """Give its bytes, a block of memory at a time; blocks."""
        parts = ((name, size, _read(content)) for name, size, content in self.parts)
        return tar.blocks(parts, self.revision.manifest.created_at)

    def close(self) -> None:
        """Let go of the files."""
        for _, _, content in self.parts:
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
    parts: list[tuple[str, int, BinaryIO]] = [
        (CONFIG_FILE, len(document), io.BytesIO(document)),
        (WEIGHTS_FILE, os.fstat(weights.fileno()).st_size, weights),
        (MANIFEST_FILE, len(described), io.BytesIO(described)),
    ]
    return Archive(revision, parts, hashlib.sha256(described).hexdigest())


def _read(content: BinaryIO) -> Iterator[bytes]:
    while chunk := content.read(CHUNK):
        yield chunk
