"""The outbox: events are put in by the transaction that they tell of, and taken out until told.

Several senders share it. One that takes a delivery out holds it until `next_attempt_at`; if it dies
meanwhile, the delivery is due again then, under the same event id.
"""

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, and_, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.models import DeliveryRow, WebhookRow
from service.webhooks.events import event
from service.wire import new_id

PENDING, DELIVERED, FAILED = "pending", "delivered", "failed"
CLEANED_AT_ONCE = 1000


class Outbox:
    """Deliveries of all tenants. Use inside `Database.write()`."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def put(self, tenant_id: str, kind: str, subject: str, at: int) -> None:
        """Tell the tenant's webhooks that want to know: all of them, or none if this fails."""
        mine = select(WebhookRow).where(WebhookRow.tenant_id == tenant_id).order_by(WebhookRow.seq)
        # Held, so that one that is being deleted is waited for instead of referred to.
        found = await self.session.scalars(mine.with_for_update(read=True, key_share=True))
        told = event(new_id("evt_"), kind, at, subject)
        for webhook in found:
            if kind in webhook.events:
                self.session.add(
                    DeliveryRow(
                        id=new_id("whd_"),
                        tenant_id=tenant_id,
                        webhook_id=webhook.id,
                        event_id=told["id"],
                        type=kind,
                        payload=told,
                        status=PENDING,
                        attempts=0,
                        next_attempt_at=float(at),
                        created_at=at,
                    )
                )

    async def due(self, now: float, busy: Collection[str] = ()) -> bool:
        """Tell whether `take` would find something; a read is enough."""
        query = select(DeliveryRow.seq).where(_due(now, busy)).limit(1)
        return await self.session.scalar(query) is not None

    async def take(
        self, now: float, until: float, *, limit: int, each: int, busy: Collection[str] = ()
    ) -> Sequence[tuple[DeliveryRow, WebhookRow]]:
        """Hold what is due, `each` of a webhook at most, and none of those that are `busy`.

        Each is counted as an attempt at once: a sender that dies has tried.
        """
        free = _due(now, busy)
        place = func.row_number().over(
            partition_by=DeliveryRow.webhook_id, order_by=DeliveryRow.next_attempt_at
        )
        ranked = select(DeliveryRow.seq, place.label("place")).where(free).subquery()
        query = (
            select(DeliveryRow, WebhookRow)
            .join(WebhookRow, WebhookRow.id == DeliveryRow.webhook_id)
            .join(ranked, ranked.c.seq == DeliveryRow.seq)
            # Said again: another sender may have taken it since `ranked` was looked at.
            .where(free, ranked.c.place <= each)
            .order_by(DeliveryRow.next_attempt_at, DeliveryRow.seq)
            .limit(limit)
            .with_for_update(skip_locked=True, of=DeliveryRow)
        )
        taken = [(delivery, webhook) for delivery, webhook in await self.session.execute(query)]
        for delivery, _ in taken:
            delivery.attempts += 1
            delivery.next_attempt_at = until
        return taken

    async def settle(
        self,
        delivery: DeliveryRow,
        status: str,
        *,
        next_attempt_at: float | None,
        delivered_at: int | None,
        last_status: int | None,
        last_error: str | None,
    ) -> None:
        """Write down what came of a delivery that was taken; nothing if another has it by now."""
        held = (
            DeliveryRow.seq == delivery.seq,
            DeliveryRow.status == PENDING,
            DeliveryRow.next_attempt_at == delivery.next_attempt_at,
        )
        await self.session.execute(
            update(DeliveryRow)
            .where(*held)
            .values(
                status=status,
                next_attempt_at=next_attempt_at,
                delivered_at=delivered_at,
                last_status=last_status,
                last_error=last_error,
            )
            .execution_options(synchronize_session=False)
        )

    async def clean(self, before: int) -> bool:
        """Forget some of what ended and is older; tells whether there may be more."""
        old = (
            select(DeliveryRow.seq)
            .where(DeliveryRow.status != PENDING, DeliveryRow.created_at < before)
            .limit(CLEANED_AT_ONCE)
        )
        gone = await self.session.execute(
            delete(DeliveryRow)
            .where(DeliveryRow.seq.in_(old))
            .execution_options(synchronize_session=False)
        )
        return bool(gone.rowcount)  # type: ignore[attr-defined]


def _due(now: float, busy: Collection[str]) -> ColumnElement[bool]:
    return and_(
        DeliveryRow.status == PENDING,
        DeliveryRow.next_attempt_at <= now,
        DeliveryRow.webhook_id.not_in(busy),
    )
