"""Revisions in memory, with the same promises: for tests, and for what need not outlive a process.

Readers want files, so a revision is written to a private folder when it is first opened.
"""

import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from adapters_store import files, layout
from adapters_store.errors import RevisionNotFound
from adapters_store.layout import CONTENT_FILES, MANIFEST_FILE, Layout
from adapters_store.merged import MergedModel
from adapters_store.models import MergedRef, MergeOrigin, Origin, RevisionRef
from adapters_store.preparing import prepare, seal
from adapters_store.store import AdapterStore, Orphan, Revision, not_found
from adapters_store.verification import Verifier


class MemoryAdapterStore(AdapterStore):
    """Keeps the promises among the threads of one process; all of it goes with the process."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._revisions: dict[RevisionRef, dict[str, bytes]] = {}
        self._merged: dict[MergedRef, MergedModel] = {}
        self._verifier = Verifier(clock)
        self._lock = threading.Lock()
        self._lazy_folder: Path | None = None

    def stage(self) -> AbstractContextManager[Path]:
        """Give a private folder to write an adapter into; it goes when the context ends."""
        return files.workspace(self._folder())

    def publish(self, tenant: str, adapter: str, staged: Path, origin: Origin) -> Revision:
        """Check the staged PEFT files and make them a revision, wholly or not at all."""
        with self.stage() as folder:
            made = prepare(tenant, adapter, staged, origin, folder, int(self._clock()))
            names = (*CONTENT_FILES, MANIFEST_FILE)
            content = {name: (folder / name).read_bytes() for name in names}
        with self._lock:
            self._revisions.setdefault(made.ref, content)
        return self.open(made.ref)

    def open(self, ref: RevisionRef) -> Revision:
        """Find a revision, verifying every file against the manifest."""
        with self._lock:
            place = Layout(self._folder_unlocked()).revision(ref)
            if ref not in self._revisions:
                raise not_found(ref)
            if not place.exists():
                place.mkdir(parents=True)
                for name, content in self._revisions[ref].items():
                    files.write(place / name, content)
            return self._verifier.open(ref, place)

    def list(self, tenant: str, adapter: str | None = None) -> Iterator[RevisionRef]:
        """Walk a tenant's published revisions, in the order of their references."""
        for name in (tenant,) if adapter is None else (tenant, adapter):
            layout.name(name)
        with self._lock:
            refs = sorted(self._revisions)
        return iter([r for r in refs if r.tenant == tenant and adapter in (None, r.adapter)])

    def delete(self, ref: RevisionRef) -> None:
        """Remove a revision with what it was merged into, or one merged model. Raises
        RevisionNotFound.
        """
        layout.parts(ref)
        with self._lock:
            if isinstance(ref, MergedRef):
                if self._merged.pop(ref, None) is None:
                    raise not_found(ref)
                return
            if self._revisions.pop(ref, None) is None:
                raise not_found(ref)
            self._merged = {m: model for m, model in self._merged.items() if m.revision != ref}
            self._verifier.forget(ref)
            files.remove(Layout(self._folder_unlocked()).revision(ref))

    def publish_merged(self, ref: MergedRef, staged: Path, origin: MergeOrigin) -> MergedModel:
        """Make the staged files a merged model, wholly or not at all."""
        made = seal(ref, staged, origin, int(self._clock()))
        content = {name: (staged / name).read_bytes() for name in made.files}
        with self._lock:
            if ref.revision not in self._revisions:
                raise not_found(ref.revision)
            self._merged.setdefault(ref, MergedModel(made, lambda name: iter([content[name]])))
        return self.open_merged(ref)

    def open_merged(self, ref: MergedRef) -> MergedModel:
        """Find a merged model."""
        layout.parts(ref)
        with self._lock:
            if ref not in self._merged:
                raise not_found(ref)
            return self._merged[ref]

    def list_merged(self, tenant: str) -> Iterator[MergedRef]:
        """Walk the merged models of a tenant's revisions."""
        layout.name(tenant)
        with self._lock:
            return iter([ref for ref in sorted(self._merged) if ref.tenant == tenant])

    def published_at(self, ref: RevisionRef) -> float:
        """Tell when a revision's files came, in unix seconds. Raises RevisionNotFound."""
        return float(self.open(ref).manifest.created_at)

    def size(self, tenant: str) -> int:
        """Add up the bytes that are kept of a tenant."""
        layout.name(tenant)
        with self._lock:
            kept = [files for ref, files in self._revisions.items() if ref.tenant == tenant]
            merged = [m.manifest.files for ref, m in self._merged.items() if ref.tenant == tenant]
        adapters = sum(len(content) for files in kept for content in files.values())
        return adapters + sum(entry.bytes for files in merged for entry in files.values())

    def erase(self, tenant: str) -> None:
        """Remove all that is a tenant's."""
        for ref in self.list(tenant):
            with suppress(RevisionNotFound):
                self.delete(ref)

    def tenants(self) -> Sequence[str]:
        """Name the tenants that have adapters here."""
        with self._lock:
            return sorted({ref.tenant for ref in self._revisions})

    def orphans(self, tenant: str, before: float) -> Iterator[Orphan]:  # noqa: ARG002
        """Walk what a publish left behind: here there is none, for it is one assignment."""
        layout.name(tenant)
        return iter(())

    def probe(self) -> None:
        """Memory can always be written."""

    def _folder(self) -> Path:
        with self._lock:
            return self._folder_unlocked()

    def _folder_unlocked(self) -> Path:
        if self._lazy_folder is None:
            self._lazy_folder = Path(tempfile.mkdtemp(prefix="lorehouse-adapters-")).resolve()
            weakref.finalize(self, shutil.rmtree, self._lazy_folder, ignore_errors=True)
        return self._lazy_folder
