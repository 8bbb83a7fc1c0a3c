"""The promises of an adapter store; `filesystem` and `memory` keep them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from adapters_store.models import Manifest, Origin, RevisionRef


class Revision(msgspec.Struct, frozen=True):
    """A published revision: PEFT's files in `path`, and the manifest that describes them."""

    ref: RevisionRef
    path: Path
    manifest: Manifest


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
        """Remove a revision, at once for every reader. Raises RevisionNotFound."""
