"""`/v1/webhooks`. Every route needs the scope `jobs`: a webhook tells what that scope shows."""

from typing import Annotated

from litestar import Controller, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter

from service.http.errors import errors
from service.tenants.auth import requires
from service.tenants.idempotency import IDEMPOTENT
from service.webhooks.schemas import (
    CreateWebhook,
    Delivery,
    DeliveryList,
    NewWebhook,
    RotateWebhook,
    Webhook,
    WebhookList,
)
from service.webhooks.service import WebhookService
from service.wire import Deleted

MOST = 100

Webhooks = NamedDependency[WebhookService]
TenantId = NamedDependency[str]
After = Annotated[str | None, QueryParameter(description="`last_id` of the page before this one.")]
Limit = Annotated[int, QueryParameter(ge=1, le=MOST, description="Most items to give.")]


class WebhookController(Controller):
    """URLs of a tenant's that are told how its jobs end, as OpenAI tells it."""

    path = "/v1/webhooks"
    tags = ["webhooks"]
    guards = [requires("jobs")]

    @post(operation_id="createWebhook", responses=errors(409), opt={IDEMPOTENT: True})
    async def create_webhook(
        self, data: JSONBody[CreateWebhook], tenant_id: TenantId, webhooks: Webhooks
    ) -> NewWebhook:
        """Be told at a URL. The secret is in this answer and nowhere else: keep it.

        Events are posted as OpenAI's event objects, signed as Standard Webhooks
        (`webhook-id`, `webhook-timestamp`, `webhook-signature`). Without an answer of 2xx within
        ten seconds it is tried again, for a day. One may arrive twice, with the same `webhook-id`.
        """
        return await webhooks.create(tenant_id, data)

    @get(operation_id="listWebhooks", responses=errors())
    async def list_webhooks(
        self, tenant_id: TenantId, webhooks: Webhooks, after: After = None, limit: Limit = 20
    ) -> WebhookList:
        """List webhooks, newest first."""
        return await webhooks.list(tenant_id, after, limit)

    @get("/{webhook:str}", operation_id="retrieveWebhook", responses=errors(404))
    async def retrieve_webhook(
        self, webhook: FromPath[str], tenant_id: TenantId, webhooks: Webhooks
    ) -> Webhook:
        """Show a webhook."""
        return await webhooks.retrieve(tenant_id, webhook)

    @delete("/{webhook:str}", operation_id="deleteWebhook", status_code=200, responses=errors(404))
    async def delete_webhook(
        self, webhook: FromPath[str], tenant_id: TenantId, webhooks: Webhooks
    ) -> Deleted:
        """Delete a webhook. What was still to be sent to it is not sent."""
        return await webhooks.delete(tenant_id, webhook)

    @post(
        "/{webhook:str}/rotate",
        operation_id="rotateWebhook",
        status_code=200,
        responses=errors(404),
    )
    async def rotate_webhook(
        self,
        webhook: FromPath[str],
        data: JSONBody[RotateWebhook],
        tenant_id: TenantId,
        webhooks: Webhooks,
    ) -> NewWebhook:
        """Change the secret. For a time both sign, each with a signature of its own."""
        return await webhooks.rotate(tenant_id, webhook, data)

    @get(
        "/{webhook:str}/deliveries",
        operation_id="listWebhookDeliveries",
        responses=errors(404),
    )
    async def list_deliveries(
        self,
        webhook: FromPath[str],
        tenant_id: TenantId,
        webhooks: Webhooks,
        after: After = None,
        limit: Limit = 20,
    ) -> DeliveryList:
        """List what was sent or is to be sent to a webhook, newest first; kept for 30 days."""
        return await webhooks.deliveries(tenant_id, webhook, after, limit)

    @post(
        "/{webhook:str}/deliveries/{delivery:str}/redeliver",
        operation_id="redeliverWebhook",
        status_code=202,
        responses=errors(404),
    )
    async def redeliver(
        self,
        webhook: FromPath[str],
        delivery: FromPath[str],
        tenant_id: TenantId,
        webhooks: Webhooks,
    ) -> Delivery:
        """Send a delivery again, with the same `webhook-id`, whatever came of it before."""
        return await webhooks.redeliver(tenant_id, webhook, delivery)
