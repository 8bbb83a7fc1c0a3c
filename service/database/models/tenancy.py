"""Tenants and their keys, and what is kept of their requests."""

from advanced_alchemy.base import DefaultBase
from sqlalchemy import JSON, BigInteger, Float, Index, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from service.database.models.columns import Json, numbered, of_tenant


class TenantRow(DefaultBase):
    """A customer of the operator."""

    __tablename__ = "tenants"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at: Mapped[int] = mapped_column(BigInteger)
    weight: Mapped[float] = mapped_column(Float(53), server_default="1")
    """Its share of training and generation, against the others' weights."""
    limits: Mapped[Json | None] = mapped_column(JSON(none_as_null=True))
    """Quotas and rate limits of its own; what is absent is the server's default."""


class ApiKeyRow(DefaultBase):
    """A key's keyed hash and what it may do; the key itself is never stored."""

    __tablename__ = "api_keys"
    seq: Mapped[int] = numbered()
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant_id: Mapped[str] = of_tenant()
    name: Mapped[str] = mapped_column(String(128))
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    hint: Mapped[str] = mapped_column(String(16))
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[int] = mapped_column(BigInteger)
    revoked_at: Mapped[int | None] = mapped_column(BigInteger)
    expires_at: Mapped[int | None] = mapped_column(BigInteger)
    last_used_at: Mapped[int | None] = mapped_column(BigInteger)
    replaced_by: Mapped[str | None] = mapped_column(String(64))
    """The key that took its place; this one goes on until it expires."""


class ErasureRow(DefaultBase):
    """That a tenant was erased, and what of it: ids and numbers only. It outlives the tenant."""

    __tablename__ = "erasures"
    seq: Mapped[int] = numbered()
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant_id: Mapped[str] = mapped_column(String(64), index=True)
    status: Mapped[str] = mapped_column(String(16))
    """`running` until nothing is left, then `done`."""
    report: Mapped[Json | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[int] = mapped_column(BigInteger)
    finished_at: Mapped[int | None] = mapped_column(BigInteger)


class UsageRow(DefaultBase):
    """What one key did with one model on one day: a counter, added to in the work's transaction."""

    __tablename__ = "usage"
    __table_args__ = (
        UniqueConstraint("tenant_id", "day", "kind", "key_id", "adapter", "digest"),
        Index("ix_usage_tenant_kind_day", "tenant_id", "kind", "day"),
    )
    seq: Mapped[int] = numbered()
    tenant_id: Mapped[str] = of_tenant(index=False)
    day: Mapped[int] = mapped_column(BigInteger)
    """Its first second, in UTC."""
    kind: Mapped[str] = mapped_column(String(16))
    """`generated` or `trained`."""
    # Empty instead of null, which no UNIQUE constraint compares.
    key_id: Mapped[str] = mapped_column(String(64), server_default="")
    adapter: Mapped[str] = mapped_column(String(64), server_default="")
    """Empty for the base."""
    digest: Mapped[str] = mapped_column(String(64), server_default="")
    """The revision's; of `trained` the job's id, whose revision is not there before its end."""
    model: Mapped[str] = mapped_column(String(512))
    """The exact name, as answers give it; of `trained` the base's."""
    requests: Mapped[int] = mapped_column(BigInteger, server_default="0")
    input_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    output_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Generated ones; of `trained`, all that went through training."""


class RateRow(DefaultBase):
    """How much of a rate limit is given out; processes draw portions of it."""

    __tablename__ = "rates"
    __table_args__ = (UniqueConstraint("tenant_id", "kind", "window"),)
    seq: Mapped[int] = numbered()
    tenant_id: Mapped[str] = of_tenant(index=False)
    kind: Mapped[str] = mapped_column(String(32))
    window: Mapped[int] = mapped_column(BigInteger)
    """Its first second."""
    used: Mapped[int] = mapped_column(BigInteger, server_default="0")


class PlaceRow(DefaultBase):
    """How many of a tenant's generations at once one API process answers, or keeps room for."""

    __tablename__ = "places"
    __table_args__ = (UniqueConstraint("tenant_id", "holder"),)
    seq: Mapped[int] = numbered()
    tenant_id: Mapped[str] = of_tenant(index=False)
    holder: Mapped[str] = mapped_column(String(64))
    held: Mapped[int] = mapped_column(Integer)
    expires_at: Mapped[float] = mapped_column(Float(53))
    """A process that died holds nothing for long."""


class IdempotencyRow(DefaultBase):
    """The first answer to a creating request that named an `Idempotency-Key`."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (UniqueConstraint("tenant_id", "key"),)
    seq: Mapped[int] = numbered()
    tenant_id: Mapped[str] = of_tenant(index=False)
    key: Mapped[str] = mapped_column(String(255))
    operation: Mapped[str] = mapped_column(String(64))
    request_sha256: Mapped[str] = mapped_column(String(64))
    """Of method, path, query and body."""
    status: Mapped[int] = mapped_column(Integer)
    answer: Mapped[Json] = mapped_column(JSON)
    created_at: Mapped[int] = mapped_column(BigInteger)


class AuditRow(DefaultBase):
    """That somebody changed something: who, what, when, and with what success. Never changed."""

    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_tenant_seq", "tenant_id", "seq"),)
    seq: Mapped[int] = numbered()
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant_id: Mapped[str | None] = mapped_column(String(64))
    """Whose things; null for the server's own. It outlives the tenant."""
    key_id: Mapped[str | None] = mapped_column(String(64))
    """Null for the operator's key."""
    operation: Mapped[str] = mapped_column(String(64))
    """Its `operationId`."""
    target: Mapped[Json] = mapped_column(JSON)
    """The ids in the path."""
    status: Mapped[int] = mapped_column(Integer)
    request_id: Mapped[str] = mapped_column(String(128))
    created_at: Mapped[int] = mapped_column(BigInteger)
