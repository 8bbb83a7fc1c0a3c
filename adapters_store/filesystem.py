"""Revisions as folders of a local file system.

A revision's folder is written whole beside the others and then renamed to its name: it is there
with everything, or not there, also when the power fails.
"""

import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path

from adapters_store import files, manifest
from adapters_store.errors import InvalidAdapter, StoreUnavailable
from adapters_store.layout import (
    MANIFEST_FILE,
    Layout,
    is_digest,
    is_merge,
    is_name,
    refuse_links,
)
from adapters_store.merged import MergedModel, check_sizes
from adapters_store.models import MergedManifest, MergedRef, MergeOrigin, Origin, RevisionRef
from adapters_store.preparing import prepare, seal
from adapters_store.store import AdapterStore, Orphan, Revision, not_found
from adapters_store.verification import Verifier


class FilesystemAdapterStore(AdapterStore):
    """Keeps the promises among any number of processes on one file system, `kill -9` included."""

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        files.make_folder(root.absolute())
        self._layout = Layout(root.resolve())
        self._clock = clock
        self._verifier = Verifier(clock)
        for folder in (self._layout.staging, self._layout.trash):
            files.make_folder(folder)
            files.sweep(folder)

    def stage(self) -> AbstractContextManager[Path]:
        """Give a private folder to write an adapter into; it goes when the context ends."""
        return files.workspace(self._layout.staging)

    def publish(self, tenant: str, adapter: str, staged: Path, origin: Origin) -> Revision:
        """Check the staged PEFT files and make them a revision, wholly or not at all."""
        place = self._layout.adapter(tenant, adapter)
        with self.stage() as folder:
            made = prepare(tenant, adapter, staged, origin, folder, int(self._clock()))
            refuse_links(place)
            files.make_folder(place)
            revision = Revision(made.ref, self._layout.revision(made.ref), made)
            moved = files.move(folder, revision.path)
        files.sync_folder(place)
        # Equal content that was there before has its own manifest, and may have changed since.
        return revision if moved else self.open(made.ref)

    def open(self, ref: RevisionRef) -> Revision:
        """Find a revision, verifying every file against the manifest."""
        place = self._find(ref)
        try:
            return self._verifier.open(ref, place)
        except InvalidAdapter:
            # What is deleted while it is read looks damaged.
            self._find(ref)
            raise

    def list(self, tenant: str, adapter: str | None = None) -> Iterator[RevisionRef]:
        """Walk a tenant's published revisions, in the order of their references."""
        place = self._layout.tenant(tenant)
        names = filter(is_name, _names(place)) if adapter is None else [adapter]
        places = [self._layout.adapter(tenant, name) for name in names]
        return (ref for place in places for ref in self._revisions(place))

    def delete(self, ref: RevisionRef) -> None:
        """Remove a revision with all that lies in it, or one merged model. Raises
        RevisionNotFound.
        """
        place = self._find(ref)
        try:
            doomed = self._doom(place)
        except FileNotFoundError:
            raise not_found(ref) from None
        self._verifier.forget(ref)
        files.remove(doomed)

    def published_at(self, ref: RevisionRef) -> float:
        """Tell when a revision's files came, in unix seconds. Raises RevisionNotFound."""
        try:
            return (self._find(ref) / MANIFEST_FILE).lstat().st_mtime
        except FileNotFoundError:
            raise not_found(ref) from None

    def size(self, tenant: str) -> int:
        """Add up the bytes that are kept of a tenant."""
        return files.size(self._layout.tenant(tenant))

    def erase(self, tenant: str) -> None:
        """Remove all that is a tenant's, torn or whole, and what dead processes left."""
        place = self._layout.tenant(tenant)
        refuse_links(place)
        for ref in self.list(tenant):
            self._verifier.forget(ref)
        with suppress(FileNotFoundError):
            self._discard(place)
        for folder in (self._layout.staging, self._layout.trash):
            files.sweep(folder)

    def publish_merged(self, ref: MergedRef, staged: Path, origin: MergeOrigin) -> MergedModel:
        """Make the staged files a merged model, wholly or not at all."""
        self._find(ref.revision)
        place = self._layout.revision(ref)
        seal(ref, staged, origin, int(self._clock()))
        try:
            files.move(staged, place)
            files.sync_folder(place.parent)
        except FileNotFoundError:
            raise not_found(ref) from None
        return self.open_merged(ref)

    def open_merged(self, ref: MergedRef) -> MergedModel:
        """Find a merged model; its files are verified as they are read."""
        place = self._find(ref)
        described = manifest.read(place, ref, MergedManifest)
        model = MergedModel(described, lambda name: files.blocks(place / name))
        return check_sizes(model, lambda name: (place / name).lstat().st_size)

    def list_merged(self, tenant: str) -> Iterator[MergedRef]:
        """Walk the merged models of a tenant's revisions."""
        for ref in self.list(tenant):
            place = self._layout.revision(ref)
            for name in filter(is_merge, _names(place)):
                if (place / name / MANIFEST_FILE).is_file():
                    yield MergedRef(ref.tenant, ref.adapter, ref.digest, name)

    def tenants(self) -> Sequence[str]:
        """Name the tenants that have adapters here."""
        return [*filter(is_name, _names(self._layout.root))]

    def orphans(self, tenant: str, before: float) -> Iterator[Orphan]:
        """Walk the folders without a manifest. A publish makes none: somebody else did."""
        for folder in self._folders(tenant):
            refuse_links(folder)
            if not (folder / MANIFEST_FILE).is_file() and folder.lstat().st_mtime < before:
                where = str(folder.relative_to(self._layout.root))
                yield Orphan(where, partial(self._discard, folder))

    def probe(self) -> None:
        """Write something small and remove it. Raises StoreUnavailable."""
        try:
            self._layout.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._layout.root) as probe:
                probe.write(b"1")
                os.fsync(probe.fileno())
        except OSError as fault:
            raise StoreUnavailable(f"the adapters' folder: {fault.strerror}") from None

    def _folders(self, tenant: str) -> Iterator[Path]:
        """Walk what ought to be revisions, and then, in whole ones, merged models."""
        place = self._layout.tenant(tenant)
        for adapter in filter(is_name, _names(place)):
            for digest in filter(is_digest, _names(place / adapter)):
                revision = place / adapter / digest
                yield revision
                if (revision / MANIFEST_FILE).is_file():
                    yield from (revision / name for name in _names(revision) if is_merge(name))

    def _discard(self, place: Path) -> None:
        files.remove(self._doom(place))

    def _doom(self, place: Path) -> Path:
        """Take a folder out of everybody's sight at once."""
        doomed = self._layout.trash / secrets.token_hex(16)
        place.rename(doomed)
        files.sync_folder(place.parent)
        return doomed

    def _find(self, ref: RevisionRef) -> Path:
        place = self._layout.revision(ref)
        refuse_links(place)
        if not place.is_dir():
            raise not_found(ref)
        return place

    def _revisions(self, place: Path) -> Iterator[RevisionRef]:
        refuse_links(place)
        for digest in filter(is_digest, _names(place)):
            if (place / digest / MANIFEST_FILE).is_file():
                yield self._layout.ref(place / digest)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
