"""What the store keeps: a reference that addresses a revision, and a manifest beside its files."""

from typing import Any

import msgspec


class RevisionRef(msgspec.Struct, frozen=True, order=True):
    """Addresses one immutable revision.

    `digest` is the sha256 (64 hex digits) over the safetensors and the canonical
    adapter_config.json. A revision belongs to one tenant and one adapter: equal bytes elsewhere
    are another revision.
    """

    tenant: str
    adapter: str
    digest: str


class MergedRef(RevisionRef, frozen=True, order=True):
    """Addresses a model that a revision was merged into: it lies with the revision, and goes with
    it.
    """

    merge: str

    @property
    def revision(self) -> RevisionRef:
        """What was merged."""
        return RevisionRef(self.tenant, self.adapter, self.digest)


class FileEntry(msgspec.Struct, frozen=True):
    """One file of a revision, or of a merged model."""

    sha256: str
    bytes: int


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a revision came from, and what it must be served with."""

    base: str
    """The base's public id."""
    base_digest: str
    """sha256 over the base's config and weight files' names and digests."""
    base_commit: str | None = None
    """Of the hub's repository that the base's files came from, where that is known."""
    quantization: str
    compute_dtype: str
    tokenizer_digest: str
    chat_template_digest: str
    format: str
    """`chat` or `raw`."""
    job_id: str | None = None
    step: int | None = None
    dataset_digests: list[str] = []
    spec: dict[str, Any] = {}
    metrics: dict[str, float | None] = {}
    parents: list[str] = []
    library_versions: dict[str, str] = {}
    imported: bool = False
    """Whether it came from elsewhere: who made it, and of what, is not known here then."""


class MergeOrigin(msgspec.Struct, frozen=True, kw_only=True):
    """What a revision was merged into, and how."""

    base: str
    """The base's public id."""
    base_digest: str
    method: str
    library_versions: dict[str, str] = {}


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """Written last, beside the files: a folder without it is neither revision nor merged model."""

    version: int
    ref: RevisionRef
    created_at: int
    files: dict[str, FileEntry]


class Manifest(Described, frozen=True, kw_only=True):
    """A revision's."""

    origin: Origin


class MergedManifest(Described, frozen=True, kw_only=True):
    """A merged model's."""

    ref: MergedRef
    origin: MergeOrigin
