"""Fine-tuning jobs, and the runtimes that do them."""

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

FINISHED_JOBS = ("succeeded", "failed", "cancelled")
"""Statuses of jobs that need nothing any more."""


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
    seq: Mapped[int] = numbered()
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant_id: Mapped[str] = of_tenant()
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
    seq: Mapped[int] = numbered()
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant_id: Mapped[str] = of_tenant()
    job_id: Mapped[str] = mapped_column(String(64), ForeignKey("jobs.id"), index=True)
    created_at: Mapped[int] = mapped_column(BigInteger)
    step_number: Mapped[int] = mapped_column(Integer)
    model_name: Mapped[str] = mapped_column(String(512))
    metrics: Mapped[Json] = mapped_column(JSON)


class RuntimeRow(DefaultBase):
    """What a runtime that trains tells of itself: the device, and how quick it was."""

    __tablename__ = "runtimes"
    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    """As it holds leases."""
    base: Mapped[str] = mapped_column(String(64))
    alive_until: Mapped[int] = mapped_column(BigInteger)
    report: Mapped[Json] = mapped_column(JSON)
