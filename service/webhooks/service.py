"""A tenant's webhooks: made, shown, rotated, deleted; their deliveries, shown and sent again."""

import time
from typing import Any

from service.database import Database
from service.database.models import DeliveryRow, WebhookRow
from service.errors import BadRequest, Conflict
from service.tenants.deeds import made_secret
from service.webhooks.addresses import BadUrl, destination
from service.webhooks.outbox import PENDING
from service.webhooks.repository import WebhookRepository
from service.webhooks.schemas import (
    CreateWebhook,
    Delivery,
    DeliveryList,
    NewWebhook,
    RotateWebhook,
    Webhook,
    WebhookList,
)
from service.webhooks.signing import secret_of
from service.wire import Deleted, new_id, now, page

MOST_WEBHOOKS = 16


class WebhookService:
    """`secret` is the server's; `private` lets webhooks go into private networks."""

    def __init__(self, database: Database, secret: str, *, private: bool) -> None:
        self.database = database
        self.secret = secret
        self.private = private

    async def create(self, tenant_id: str, body: CreateWebhook) -> NewWebhook:
        """Add a webhook. Raises BadRequest for its URL, and Conflict for one too many."""
        try:
            destination(body.url, private=self.private)
        except BadUrl as fault:
            raise BadRequest(f"Invalid value for 'url': {fault}.", param="url") from None
        row = WebhookRow(
            id=new_id("wh_"),
            tenant_id=tenant_id,
            url=body.url,
            events=sorted(set(body.events)),
            description=body.description,
            secret_version=1,
            created_at=now(),
        )
        async with self.database.write() as session:
            webhooks = WebhookRepository(session)
            if await webhooks.count(tenant_id) >= MOST_WEBHOOKS:
                message = f"A tenant has at most {MOST_WEBHOOKS} webhooks: delete one first."
                raise Conflict(message, code="too_many_webhooks")
            await webhooks.add(row)
            made_secret(row.id)
        return self._with_secret(row)

    async def list(self, tenant_id: str, after: str | None, limit: int) -> WebhookList:
        """List webhooks, newest first."""
        async with self.database.read() as session:
            rows = await WebhookRepository(session).page(tenant_id, after, limit + 1)
        data = [Webhook(**_fields(row)) for row in rows[:limit]]
        return page(WebhookList, data, has_more=len(rows) > limit)

    async def retrieve(self, tenant_id: str, webhook_id: str) -> Webhook:
        """Show a webhook. Raises NotFound."""
        async with self.database.read() as session:
            return Webhook(**_fields(await WebhookRepository(session).get(tenant_id, webhook_id)))

    async def rotate(self, tenant_id: str, webhook_id: str, body: RotateWebhook) -> NewWebhook:
        """Sign with a new secret; of older ones only the last signs on. Raises NotFound."""
        async with self.database.write() as session:
            row = await WebhookRepository(session).get(tenant_id, webhook_id, lock=True)
            row.secret_version += 1
            row.previous_until = now() + body.overlap_seconds
        return self._with_secret(row)

    async def delete(self, tenant_id: str, webhook_id: str) -> Deleted:
        """Delete a webhook and its deliveries; none of them is sent any more. Raises NotFound."""
        async with self.database.write() as session:
            webhooks = WebhookRepository(session)
            await webhooks.remove(await webhooks.get(tenant_id, webhook_id, lock=True))
        return Deleted(id=webhook_id, object="webhook", deleted=True)

    async def deliveries(
        self, tenant_id: str, webhook_id: str, after: str | None, limit: int
    ) -> DeliveryList:
        """List a webhook's deliveries, newest first. Raises NotFound."""
        async with self.database.read() as session:
            webhooks = WebhookRepository(session)
            await webhooks.get(tenant_id, webhook_id)
            rows = await webhooks.deliveries(tenant_id, webhook_id, after, limit + 1)
        data = [_delivery(row) for row in rows[:limit]]
        return page(DeliveryList, data, has_more=len(rows) > limit)

    async def redeliver(self, tenant_id: str, webhook_id: str, delivery_id: str) -> Delivery:
        """Send a delivery again at once, whatever came of it, and for a day. Raises NotFound."""
        async with self.database.write() as session:
            webhooks = WebhookRepository(session)
            await webhooks.get(tenant_id, webhook_id)
            row = await webhooks.delivery(tenant_id, webhook_id, delivery_id)
            row.status, row.attempts, row.delivered_at = PENDING, 0, None
            row.next_attempt_at = time.time()
        return _delivery(row)

    def _with_secret(self, row: WebhookRow) -> NewWebhook:
        secret = secret_of(self.secret, row.id, row.secret_version)
        return NewWebhook(**_fields(row), secret=secret)


def _fields(row: WebhookRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": "webhook",
        "url": row.url,
        "events": row.events,
        "description": row.description,
        "created_at": row.created_at,
        "previous_secret_until": row.previous_until,
    }


def _delivery(row: DeliveryRow) -> Delivery:
    again = row.next_attempt_at
    return Delivery(
        id=row.id,
        object="webhook.delivery",
        webhook=row.webhook_id,
        event=row.payload,
        status=row.status,  # type: ignore[arg-type]
        attempts=row.attempts,
        last_status=row.last_status,
        last_error=row.last_error,
        created_at=row.created_at,
        next_attempt_at=None if again is None else int(again),
        delivered_at=row.delivered_at,
    )
