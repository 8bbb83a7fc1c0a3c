"""Verified copies of revisions on the local disk, for stores whose objects are elsewhere.

{root}/{sha256 of the manifest}/   a revision, whole or absent
{root}/.staging/, {root}/.trash/   as in `layout`

Any number of processes share it. Who reads a copy holds a shared lock on its folder, which the
Revision that was given out owns: it ends with the Revision, or with the process.
"""

import hashlib
import os
import secrets
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import msgspec

from adapters_store import files, manifest
from adapters_store.errors import InvalidAdapter
from adapters_store.layout import MANIFEST_FILE, Layout, is_digest
from adapters_store.models import Manifest, RevisionRef
from adapters_store.store import Revision
from adapters_store.verification import Verifier


class _Owned(msgspec.Struct, frozen=True):
    ref: RevisionRef


Download = Callable[[Path], None]
"""Puts a revision's content beside the manifest in a folder."""


class RevisionCache:
    """Keeps at most `limit` bytes, and more only while all of it is in use."""

    def __init__(self, root: Path, limit: int, clock: Callable[[], float]) -> None:
        files.make_folder(root.absolute())
        self._layout = Layout(root.resolve())
        self._limit = limit
        self._clock = clock
        self._verifier = Verifier(clock)
        for folder in (self._layout.staging, self._layout.trash):
            files.make_folder(folder)
            files.sweep(folder)

    def stage(self) -> AbstractContextManager[Path]:
        """Give a private folder that goes when the context ends."""
        return files.workspace(self._layout.staging)

    def open(self, ref: RevisionRef, described: bytes, download: Download) -> Revision:
        """Give the copy of a revision with that manifest, downloading it if need be.

        A copy that changed on this disk is replaced. Raises InvalidAdapter when what was
        downloaded is not what the manifest says.
        """
        place = self._place(described)
        fetched = False
        while (revision := self._lease(ref, place)) is None:
            self._fetch(ref, described, download, place)
            fetched = True
        if fetched:
            self._make_room()
        return revision

    def drop(self, ref: RevisionRef, described: bytes) -> None:
        """Remove the copy of a deleted revision, whoever reads it."""
        self._verifier.forget(ref)
        self._discard(self._place(described))

    def erase(self, tenant: str) -> None:
        """Remove the copies of all of a tenant's revisions, and what dead processes left."""
        for place in self._layout.root.iterdir():
            if is_digest(place.name) and _tenant_of(place) in (tenant, None):
                self._discard(place)
        for folder in (self._layout.staging, self._layout.trash):
            files.sweep(folder)

    def _place(self, described: bytes) -> Path:
        # Not the revision's digest: one that was deleted and published anew has another origin.
        return self._layout.root / hashlib.sha256(described).hexdigest()

    def _lease(self, ref: RevisionRef, place: Path) -> Revision | None:
        handle = files.share(place)
        if handle is None:
            return None
        try:
            revision = self._verifier.open(ref, place)
        except InvalidAdapter:
            os.close(handle)
            self._discard(place)
            return None
        # The file system's own clock ticks too slowly to tell who was used last.
        now = int(self._clock() * 1e9)
        os.utime(handle, ns=(now, now))
        weakref.finalize(revision, os.close, handle)
        return revision

    def _fetch(self, ref: RevisionRef, described: bytes, download: Download, place: Path) -> None:
        with self.stage() as folder:
            files.write(folder / MANIFEST_FILE, described)
            download(folder)
            manifest.verify(folder, manifest.read(folder, ref, Manifest))
            files.move(folder, place)

    def _make_room(self) -> None:
        """Remove the least recently used copies; one that is in use stays."""
        copies = sorted(self._copies())
        total = sum(size for _, size, _ in copies)
        for _, size, place in copies:
            if total <= self._limit:
                return
            if self._evict(place):
                total -= size

    def _copies(self) -> Iterator[tuple[int, int, Path]]:
        for place in self._layout.root.iterdir():
            with suppress(FileNotFoundError):
                if is_digest(place.name):
                    size = sum(path.stat().st_size for path in place.iterdir())
                    yield place.stat().st_mtime_ns, size, place

    def _evict(self, place: Path) -> bool:
        handle = files.claim(place)
        if handle is None:
            return False
        self._discard(place)
        os.close(handle)
        return True

    def _discard(self, place: Path) -> None:
        doomed = self._layout.trash / secrets.token_hex(16)
        with suppress(FileNotFoundError):
            place.rename(doomed)
            files.remove(doomed)


def _tenant_of(place: Path) -> str | None:
    """Read whose copy it is; None when that cannot be told any more."""
    try:
        return msgspec.json.decode((place / MANIFEST_FILE).read_bytes(), type=_Owned).ref.tenant
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
