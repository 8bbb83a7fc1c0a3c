"""The promises of an adapter store; `filesystem`, `objects` and `memory` keep them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from adapters_store.errors import RevisionNotFound
from adapters_store.merged import MergedModel
from adapters_store.models import Manifest, MergedRef, MergeOrigin, Origin, RevisionRef


class Revision(msgspec.Struct, frozen=True, weakref=True):
    """A published revision: PEFT's files in `path`, and the manifest that describes them.

    Hold on to it while you read from `path`: it is the lease that keeps a store from making room
    there. Only deleting the revision takes the files away all the same.
    """

    ref: RevisionRef
    path: Path
    manifest: Manifest

    @property
    def bytes(self) -> int:
        """How much its files take, the manifest apart."""
        return sum(entry.bytes for entry in self.manifest.files.values())


class Orphan(msgspec.Struct, frozen=True):
    """Content that no revision speaks of: what is left of a publish or a delete that was cut."""

    where: str
    remove: Callable[[], None]


class AdapterStore(ABC):
    """Immutable revisions of LoRA adapters, in PEFT's own files. All methods block."""

    @abstractmethod
    def stage(self) -> AbstractContextManager[Path]:
        """Give a private folder to write an adapter into.

        It disappears when the context ends, published or not. Nothing in it is ever visible.
        """

    @abstractmethod
    def publish(self, tenant: str, adapter: str, staged: Path, origin: Origin) -> Revision:
        """Check the staged PEFT files and make them a revision, wholly or not at all.

        Publishing equal content twice returns the revision that is there. Raises InvalidAdapter
        if the files are missing, malformed, empty or not finite, and InvalidName.
        """

    @abstractmethod
    def open(self, ref: RevisionRef) -> Revision:
        """Find a revision, verifying every file against the manifest.

        Raises RevisionNotFound, or InvalidAdapter when the files changed since publishing.
        """

    @abstractmethod
    def list(self, tenant: str, adapter: str | None = None) -> Iterator[RevisionRef]:
        """Walk a tenant's published revisions, in the order of their references."""

    @abstractmethod
    def delete(self, ref: RevisionRef) -> None:
        """Remove a revision with all that it was merged into, or one merged model.

        At once for every reader. Raises RevisionNotFound.
        """

    @abstractmethod
    def publish_merged(self, ref: MergedRef, staged: Path, origin: MergeOrigin) -> MergedModel:
        """Make the files in a folder that `stage` gave a merged model, wholly or not at all.

        The folder is used up. Publishing under a name that is taken returns what is there. Raises
        RevisionNotFound without the revision, InvalidAdapter and InvalidName.
        """

    @abstractmethod
    def open_merged(self, ref: MergedRef) -> MergedModel:
        """Find a merged model; its files are verified as they are read.

        Raises RevisionNotFound, or InvalidAdapter when a file is missing or of another size.
        """

    @abstractmethod
    def list_merged(self, tenant: str) -> Iterator[MergedRef]:
        """Walk the merged models of a tenant's revisions, in the order of their references."""

    @abstractmethod
    def published_at(self, ref: RevisionRef) -> float:
        """Tell when a revision's files came, in unix seconds. Raises RevisionNotFound."""

    @abstractmethod
    def size(self, tenant: str) -> int:
        """Add up the bytes that are kept of a tenant."""

    @abstractmethod
    def erase(self, tenant: str) -> None:
        """Remove all that is a tenant's, torn or whole, with the copies and leftovers here."""

    @abstractmethod
    def tenants(self) -> Sequence[str]:
        """Name the tenants that have, or had, adapters here, in order."""

    @abstractmethod
    def orphans(self, tenant: str, before: float) -> Iterator[Orphan]:
        """Walk a tenant's orphans that were last written before a time, in unix seconds.

        What is younger may be a publish at work.
        """

    @abstractmethod
    def probe(self) -> None:
        """Write something small and remove it. Raises StoreUnavailable."""


def not_found(ref: RevisionRef) -> RevisionNotFound:
    """Say what is not there."""
    if isinstance(ref, MergedRef):
        return RevisionNotFound(f"no {ref.merge} of {ref.tenant}/{ref.adapter}/{ref.digest}")
    return RevisionNotFound(f"no revision {ref.digest} of {ref.tenant}/{ref.adapter}")
