"""The rows of webhooks and of their deliveries, as their tenant sees them."""

from collections.abc import Sequence

from sqlalchemy import Select, delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.models import DeliveryRow, WebhookRow
from service.database.pages import newest
from service.errors import NotFound
from service.tenants.repository import hold


class WebhookRepository:
    """Reads and writes within one transaction."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def count(self, tenant_id: str) -> int:
        """Count a tenant's webhooks; until this transaction ends none is added by another."""
        await hold(self.session, tenant_id)
        mine = select(func.count()).where(WebhookRow.tenant_id == tenant_id)
        return await self.session.scalar(mine) or 0

    async def add(self, webhook: WebhookRow) -> None:
        """Keep a new webhook."""
        self.session.add(webhook)
        await self.session.flush()

    async def get(self, tenant_id: str, webhook_id: str, *, lock: bool = False) -> WebhookRow:
        """Find a tenant's webhook; `lock` before changing it. Raises NotFound."""
        wanted = _webhooks(tenant_id).where(WebhookRow.id == webhook_id)
        row: WebhookRow | None = await self.session.scalar(
            wanted.with_for_update() if lock else wanted
        )
        if row is None:
            message = f"The webhook '{webhook_id}' does not exist or you do not have access to it."
            raise NotFound(message, param="webhook", code="webhook_not_found")
        return row

    async def page(self, tenant_id: str, after: str | None, limit: int) -> Sequence[WebhookRow]:
        """List webhooks, newest first."""
        return await newest(self.session, _webhooks(tenant_id), WebhookRow, after, limit)

    async def remove(self, webhook: WebhookRow) -> None:
        """Forget a webhook that this transaction has locked, and its deliveries."""
        await self.session.execute(delete(DeliveryRow).where(DeliveryRow.webhook_id == webhook.id))
        await self.session.delete(webhook)

    async def delivery(self, tenant_id: str, webhook_id: str, delivery_id: str) -> DeliveryRow:
        """Find a delivery of a tenant's webhook, to be changed. Raises NotFound."""
        query = _deliveries(tenant_id, webhook_id).where(DeliveryRow.id == delivery_id)
        row: DeliveryRow | None = await self.session.scalar(query.with_for_update())
        if row is None:
            message = (
                f"The delivery '{delivery_id}' does not exist or you do not have access to it."
            )
            raise NotFound(message, param="delivery", code="delivery_not_found")
        return row

    async def deliveries(
        self, tenant_id: str, webhook_id: str, after: str | None, limit: int
    ) -> Sequence[DeliveryRow]:
        """List a webhook's deliveries, newest first."""
        mine = _deliveries(tenant_id, webhook_id)
        return await newest(self.session, mine, DeliveryRow, after, limit)


def _webhooks(tenant_id: str) -> Select[WebhookRow]:
    return select(WebhookRow).where(WebhookRow.tenant_id == tenant_id)


def _deliveries(tenant_id: str, webhook_id: str) -> Select[DeliveryRow]:
    return select(DeliveryRow).where(
        DeliveryRow.tenant_id == tenant_id, DeliveryRow.webhook_id == webhook_id
    )
