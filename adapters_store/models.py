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


class FileEntry(msgspec.Struct, frozen=True):
    """One file of a revision."""

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


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Written last, beside the files: a folder without one is not a revision."""

    version: int
    ref: RevisionRef
    created_at: int
    files: dict[str, FileEntry]
    origin: Origin
