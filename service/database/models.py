"""Every row. All that belongs to a tenant carries `tenant_id`; `seq` gives lists their order."""

from typing import Any

from advanced_alchemy.base import DefaultBase
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    false,
)
from sqlalchemy.orm import Mapped, mapped_column

Json = dict[str, Any]
FINISHED_JOBS = ("succeeded", "failed", "cancelled")
"""Statuses of jobs that need nothing any more."""
# SQLite counts up by itself only on a column of type INTEGER.
Sequence = BigInteger().with_variant(Integer, "sqlite")


def _seq() -> Mapped[int]:
    return mapped_column(Sequence, primary_key=True, autoincrement=True)


def _tenant(*, index: bool = True) -> Mapped[str]:
    """Without `index` where another one begins with it."""
    return mapped_column(String(64), ForeignKey("tenants.id"), index=index)


class Leased:
    """The columns of work that one runtime at a time holds; see `leases`."""

    seq: Mapped[int] = _seq()
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant_id: Mapped[str] = _tenant()
    status: Mapped[str] = mapped_column(String(20))
    created_at: Mapped[int] = mapped_column(BigInteger)
    started_at: Mapped[int | None] = mapped_column(BigInteger)
    finished_at: Mapped[int | None] = mapped_column(BigInteger)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    lease_owner: Mapped[str | None] = mapped_column(String(64))
    lease_token: Mapped[int] = mapped_column(Integer, default=0)
    """Counts up at every claim; a write that names an older one is refused."""
    lease_expires_at: Mapped[float | None] = mapped_column(Float(53))
    not_before: Mapped[float | None] = mapped_column(Float(53))
    """Until when it rests after a fault of ours; null: it may be claimed at once."""

    @property
    def wants_to_stop(self) -> bool:
        """Whether who holds it is asked to put it down."""
        return False


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
    seq: Mapped[int] = _seq()
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant_id: Mapped[str] = _tenant()
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


class FileRow(DefaultBase):
    """A stored file; of a fine-tune file also what parsing found."""

    __tablename__ = "files"
    seq: Mapped[int] = _seq()
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant_id: Mapped[str] = _tenant()
    filename: Mapped[str] = mapped_column(String(512))
    purpose: Mapped[str] = mapped_column(String(32))
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int | None] = mapped_column(BigInteger)
    row_format: Mapped[str | None] = mapped_column(String(16))
    rows: Mapped[int | None] = mapped_column(Integer)
    tokens: Mapped[int | None] = mapped_column(BigInteger)
    longest_example: Mapped[int | None] = mapped_column(Integer)


class UploadRow(DefaultBase):
    """A file that arrives in parts."""

    __tablename__ = "uploads"
    seq: Mapped[int] = _seq()
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant_id: Mapped[str] = _tenant()
    filename: Mapped[str] = mapped_column(String(512))
    purpose: Mapped[str] = mapped_column(String(32))
    bytes: Mapped[int] = mapped_column(BigInteger)
    mime_type: Mapped[str] = mapped_column(String(128))
    status: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int] = mapped_column(BigInteger)
    file_expires_after: Mapped[int | None] = mapped_column(BigInteger)
    file_id: Mapped[str | None] = mapped_column(String(64))


class UploadPartRow(DefaultBase):
    """One part of an upload."""

    __tablename__ = "upload_parts"
    seq: Mapped[int] = _seq()
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant_id: Mapped[str] = _tenant()
    upload_id: Mapped[str] = mapped_column(String(64), ForeignKey("uploads.id"), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[int] = mapped_column(BigInteger)


class JobRow(Leased, DefaultBase):
    """A fine-tuning job."""

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_claim", "status", "lease_expires_at"),)
    model: Mapped[str] = mapped_column(String(256))
    adapter: Mapped[str] = mapped_column(String(64))
    suffix: Mapped[str | None] = mapped_column(String(64))
    training_file: Mapped[str] = mapped_column(String(64))
    validation_file: Mapped[str | None] = mapped_column(String(64))
    seed: Mapped[int] = mapped_column(BigInteger)
    method: Mapped[Json] = mapped_column(JSON)
    """As the job object shows it, with `auto` resolved."""
    spec: Mapped[Json] = mapped_column(JSON)
    """The TrainingSpec."""
    job_metadata: Mapped[Json | None] = mapped_column("metadata", JSON)
    integrations: Mapped[list[Json] | None] = mapped_column(JSON)
    publish_alias: Mapped[str | None] = mapped_column(String(64))
    """The alias that its result takes over."""
    estimated_finish: Mapped[int | None] = mapped_column(BigInteger)
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    fine_tuned_model: Mapped[str | None] = mapped_column(String(512))
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)
    error_param: Mapped[str | None] = mapped_column(String(128))
    cancel_requested: Mapped[bool] = mapped_column(Boolean, default=False)
    pause_requested: Mapped[bool] = mapped_column(Boolean, server_default=false())
    priority: Mapped[int] = mapped_column(Integer, server_default="0")
    """Within its tenant: higher ones are begun first."""
    key_id: Mapped[str | None] = mapped_column(String(64))
    """Whose request it was: its trained tokens are accounted to that key."""
    checkpoint_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """How many of its trained tokens are in the farthest checkpoint that was kept."""
    accounted_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """How many of its trained tokens are in the usage already."""
    traceparent: Mapped[str | None] = mapped_column(String(64))
    """The W3C trace context of the request that made it."""

    @property
    def wants_to_stop(self) -> bool:
        """Whether its tenant asked to cancel it, or to pause it."""
        return self.cancel_requested or self.pause_requested


class JobEventRow(DefaultBase):
    """One dated fact about a job."""

    __tablename__ = "job_events"
    __table_args__ = (Index("ix_job_events_job", "job_id", "seq"),)
    seq: Mapped[int] = _seq()
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant_id: Mapped[str] = _tenant()
    job_id: Mapped[str] = mapped_column(String(64), ForeignKey("jobs.id"))
    created_at: Mapped[int] = mapped_column(BigInteger)
    level: Mapped[str] = mapped_column(String(8))
    type: Mapped[str] = mapped_column(String(8))
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[Json | None] = mapped_column(JSON)


class JobCheckpointRow(DefaultBase):
    """An epoch's end: a callable revision and its metrics."""

    __tablename__ = "job_checkpoints"
    __table_args__ = (UniqueConstraint("job_id", "step_number"),)
    seq: Mapped[int] = _seq()
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant_id: Mapped[str] = _tenant()
    job_id: Mapped[str] = mapped_column(String(64), ForeignKey("jobs.id"), index=True)
    created_at: Mapped[int] = mapped_column(BigInteger)
    step_number: Mapped[int] = mapped_column(Integer)
    model_name: Mapped[str] = mapped_column(String(512))
    metrics: Mapped[Json] = mapped_column(JSON)


class AdapterRow(DefaultBase):
    """A tenant's named line of revisions."""

    __tablename__ = "adapters"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)
    seq: Mapped[int] = _seq()
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant_id: Mapped[str] = _tenant()
    name: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[int] = mapped_column(BigInteger)
    keep_last: Mapped[int | None] = mapped_column(Integer)
    """Results that retention keeps besides what is needed; null: all."""


class RevisionRow(DefaultBase):
    """One immutable published version; the files are in the adapter store under the digest."""

    __tablename__ = "revisions"
    __table_args__ = (UniqueConstraint("tenant_id", "adapter", "digest"),)
    seq: Mapped[int] = _seq()
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant_id: Mapped[str] = _tenant()
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
    seq: Mapped[int] = _seq()
    tenant_id: Mapped[str] = _tenant()
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
    seq: Mapped[int] = _seq()
    tenant_id: Mapped[str] = _tenant()
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
    id: Mapped[int] = _seq()
    tenant_id: Mapped[str] = _tenant()
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


class ErasureRow(DefaultBase):
    """That a tenant was erased, and what of it: ids and numbers only. It outlives the tenant."""

    __tablename__ = "erasures"
    seq: Mapped[int] = _seq()
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant_id: Mapped[str] = mapped_column(String(64), index=True)
    status: Mapped[str] = mapped_column(String(16))
    """`running` until nothing is left, then `done`."""
    report: Mapped[Json | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[int] = mapped_column(BigInteger)
    finished_at: Mapped[int | None] = mapped_column(BigInteger)


class RuntimeRow(DefaultBase):
    """What a runtime that trains tells of itself: the device, and how quick it was."""

    __tablename__ = "runtimes"
    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    """As it holds leases."""
    base: Mapped[str] = mapped_column(String(64))
    alive_until: Mapped[int] = mapped_column(BigInteger)
    report: Mapped[Json] = mapped_column(JSON)


class UsageRow(DefaultBase):
    """What one key did with one model on one day: a counter, added to in the work's transaction."""

    __tablename__ = "usage"
    __table_args__ = (
        UniqueConstraint("tenant_id", "day", "kind", "key_id", "adapter", "digest"),
        Index("ix_usage_tenant_kind_day", "tenant_id", "kind", "day"),
    )
    seq: Mapped[int] = _seq()
    tenant_id: Mapped[str] = _tenant(index=False)
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
    seq: Mapped[int] = _seq()
    tenant_id: Mapped[str] = _tenant(index=False)
    kind: Mapped[str] = mapped_column(String(32))
    window: Mapped[int] = mapped_column(BigInteger)
    """Its first second."""
    used: Mapped[int] = mapped_column(BigInteger, server_default="0")


class PlaceRow(DefaultBase):
    """How many of a tenant's generations at once one API process answers, or keeps room for."""

    __tablename__ = "places"
    __table_args__ = (UniqueConstraint("tenant_id", "holder"),)
    seq: Mapped[int] = _seq()
    tenant_id: Mapped[str] = _tenant(index=False)
    holder: Mapped[str] = mapped_column(String(64))
    held: Mapped[int] = mapped_column(Integer)
    expires_at: Mapped[float] = mapped_column(Float(53))
    """A process that died holds nothing for long."""


class IdempotencyRow(DefaultBase):
    """The first answer to a creating request that named an `Idempotency-Key`."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (UniqueConstraint("tenant_id", "key"),)
    seq: Mapped[int] = _seq()
    tenant_id: Mapped[str] = _tenant(index=False)
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
    seq: Mapped[int] = _seq()
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


class WebhookRow(DefaultBase):
    """Where a tenant wants to be told of its jobs' ends."""

    __tablename__ = "webhooks"
    seq: Mapped[int] = _seq()
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant_id: Mapped[str] = _tenant()
    url: Mapped[str] = mapped_column(Text)
    events: Mapped[list[str]] = mapped_column(JSON)
    description: Mapped[str | None] = mapped_column(Text)
    secret_version: Mapped[int] = mapped_column(Integer, server_default="1")
    """Its secret is derived from the server's, its id and this; none is stored."""
    previous_until: Mapped[int | None] = mapped_column(BigInteger)
    """Until when the secret before this one signs as well."""
    created_at: Mapped[int] = mapped_column(BigInteger)


class DeliveryRow(DefaultBase):
    """The outbox: one event on its way to one webhook, written in the event's transaction."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        UniqueConstraint("webhook_id", "event_id"),
        Index("ix_webhook_deliveries_due", "status", "next_attempt_at"),
    )
    seq: Mapped[int] = _seq()
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant_id: Mapped[str] = _tenant()
    webhook_id: Mapped[str] = mapped_column(String(64), ForeignKey("webhooks.id"))
    event_id: Mapped[str] = mapped_column(String(64))
    """The same at every attempt, by which receivers know it again."""
    type: Mapped[str] = mapped_column(String(64))
    payload: Mapped[Json] = mapped_column(JSON)
    status: Mapped[str] = mapped_column(String(16))
    """`pending`, `delivered` or `failed`."""
    attempts: Mapped[int] = mapped_column(Integer, server_default="0")
    next_attempt_at: Mapped[float | None] = mapped_column(Float(53))
    """Also until when whoever sends it holds it."""
    last_status: Mapped[int | None] = mapped_column(Integer)
    last_error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[int] = mapped_column(BigInteger)
    delivered_at: Mapped[int | None] = mapped_column(BigInteger)
