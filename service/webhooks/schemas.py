"""Webhooks on the wire."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from service.webhooks.addresses import LONGEST_URL
from service.webhooks.events import EVENT_TYPES, EventType
from service.wire import Input, Output

LONGEST_OVERLAP = 7 * 24 * 3600


class CreateWebhook(Input):
    """Where to be told, and of what."""

    url: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=LONGEST_URL,
            description="An `https` URL at a public address, without credentials in it.",
        ),
    ]
    events: Annotated[
        tuple[EventType, ...], Meta(min_length=1, description="Default: all of them.")
    ] = EVENT_TYPES
    description: Annotated[str, Meta(max_length=512)] | None = None


class RotateWebhook(Input):
    """How to change over to the next secret."""

    overlap_seconds: Annotated[
        int,
        Meta(
            ge=0,
            le=LONGEST_OVERLAP,
            description="How long the secret before goes on signing beside the new one.",
        ),
    ] = 24 * 3600


class Webhook(Output):
    """Where a tenant is told of its jobs' ends."""

    id: str
    object: Literal["webhook"]
    url: str
    events: list[str]
    description: str | None
    created_at: int
    previous_secret_until: Annotated[
        int | None, Meta(description="Until when the secret before this one signs as well.")
    ]


class NewWebhook(Webhook):
    """A webhook with its secret, which no other answer holds."""

    secret: Annotated[str, Meta(description="`whsec_...`: give it to who verifies signatures.")]


class WebhookList(Output):
    """A page of webhooks, newest first."""

    object: Literal["list"]
    data: list[Webhook]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Delivery(Output):
    """One event on its way to one webhook."""

    id: str
    object: Literal["webhook.delivery"]
    webhook: str
    event: Annotated[dict[str, Any], Meta(description="The body that is sent.")]
    status: Literal["pending", "delivered", "failed"]
    attempts: Annotated[int, Meta(description="Since the event, or since it was sent again.")]
    last_status: Annotated[int | None, Meta(description="Of the last answer, if one came.")]
    last_error: Annotated[str | None, Meta(description="Why the last attempt failed.")]
    created_at: int
    next_attempt_at: int | None
    delivered_at: int | None


class DeliveryList(Output):
    """A page of deliveries, newest first."""

    object: Literal["list"]
    data: list[Delivery]
    first_id: str | None
    last_id: str | None
    has_more: bool
