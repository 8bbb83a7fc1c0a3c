"""Webhooks and their outbox."""

from advanced_alchemy.base import DefaultBase
from sqlalchemy import (
    JSON,
    BigInteger,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from service.database.models.columns import Json, numbered, of_tenant


class WebhookRow(DefaultBase):
    """Where a tenant wants to be told of its jobs' ends."""

    __tablename__ = "webhooks"
    seq: Mapped[int] = numbered()
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant_id: Mapped[str] = of_tenant()
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
    seq: Mapped[int] = numbered()
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant_id: Mapped[str] = of_tenant()
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
