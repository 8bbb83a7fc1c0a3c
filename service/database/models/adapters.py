"""Adapters: their revisions, what these are called by, and merges."""

from advanced_alchemy.base import DefaultBase
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    false,
)
from sqlalchemy.orm import Mapped, mapped_column

from service.database.models.columns import Json, Leased, numbered, of_tenant


class AdapterRow(DefaultBase):
    """A tenant's named line of revisions."""

    __tablename__ = "adapters"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)
    seq: Mapped[int] = numbered()
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant_id: Mapped[str] = of_tenant()
    name: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[int] = mapped_column(BigInteger)
    keep_last: Mapped[int | None] = mapped_column(Integer)
    """Results that retention keeps besides what is needed; null: all."""


class RevisionRow(DefaultBase):
    """One immutable published version; the files are in the adapter store under the digest."""

    __tablename__ = "revisions"
    __table_args__ = (UniqueConstraint("tenant_id", "adapter", "digest"),)
    seq: Mapped[int] = numbered()
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant_id: Mapped[str] = of_tenant()
    adapter: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64))
    rev: Mapped[str] = mapped_column(String(64))
    """The digest's shortest prefix, of 8 or more, that was unique within the adapter."""
    format: Mapped[str] = mapped_column(String(8))
    """`chat` or `raw`: how `generate` renders a prompt for it."""
    job_id: Mapped[str | None] = mapped_column(String(64))
    """Null for what was imported."""
    created_at: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(String(16), server_default="published")
    """`published`, or `rejected` by the publish gate."""
    gate: Mapped[Json | None] = mapped_column(JSON(none_as_null=True))
    """What the publish gate found; null for what was published before there was one."""
    override_reason: Mapped[str | None] = mapped_column(Text)
    """Why an operator lets a rejected one be served."""
    override_key_id: Mapped[str | None] = mapped_column(String(64))
    overridden_at: Mapped[int | None] = mapped_column(BigInteger)
    pinned: Mapped[bool] = mapped_column(Boolean, server_default=false())
    """Whether it is to stay resident."""
    bytes: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Of its files; 0 for what was published before they were counted."""


class FineTunedModelRow(DefaultBase):
    """A callable name of a revision: a job's result, or one of its checkpoints."""

    __tablename__ = "fine_tuned_models"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)
    seq: Mapped[int] = numbered()
    tenant_id: Mapped[str] = of_tenant()
    name: Mapped[str] = mapped_column(String(512))
    revision_id: Mapped[str] = mapped_column(String(64), ForeignKey("revisions.id"), index=True)
    job_id: Mapped[str | None] = mapped_column(String(64))
    """Null for what was imported."""
    step: Mapped[int | None] = mapped_column(Integer)
    """Of a checkpoint; null for a job's result, or an import."""
    created_at: Mapped[int] = mapped_column(BigInteger)


class AliasVersionRow(DefaultBase):
    """What an alias named from one moment to the next. Rows are added, never changed.

    The row with the highest version is the alias; the others are its history.
    """

    __tablename__ = "alias_versions"
    __table_args__ = (UniqueConstraint("tenant_id", "adapter", "alias", "version"),)
    seq: Mapped[int] = numbered()
    tenant_id: Mapped[str] = of_tenant()
    adapter: Mapped[str] = mapped_column(String(64))
    alias: Mapped[str] = mapped_column(String(64))
    version: Mapped[int] = mapped_column(Integer)
    """Counts up from 1, and on over a deletion: an old version never fits a new alias."""
    targets: Mapped[list[Json] | None] = mapped_column(JSON(none_as_null=True))
    """Digests and weights; null when it was deleted."""
    key_id: Mapped[str | None] = mapped_column(String(64))
    """Whose request it was; null for a job's publishing."""
    reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[int] = mapped_column(BigInteger)


class EngineIdRow(DefaultBase):
    """The number by which engines know a revision; never given to another one."""

    __tablename__ = "engine_ids"
    __table_args__ = (
        UniqueConstraint("tenant_id", "adapter", "digest"),
        {"sqlite_autoincrement": True},
    )
    id: Mapped[int] = numbered()
    tenant_id: Mapped[str] = of_tenant()
    adapter: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64))


class MergeRow(Leased, DefaultBase):
    """A job that merges a revision into the base; its status is one of those of jobs."""

    __tablename__ = "merges"
    __table_args__ = (Index("ix_merges_claim", "status", "lease_expires_at"),)
    adapter: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64))
    model: Mapped[str] = mapped_column(String(512))
    """The revision's exact name when it was asked for."""
    spec: Mapped[Json] = mapped_column(JSON)
    """What was asked for besides."""
    result: Mapped[Json | None] = mapped_column(JSON(none_as_null=True))
    """Files, bytes and how well it agrees with base plus adapter, once it has succeeded."""
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)
    bytes: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Of its result; until there is one, what it will be about."""
