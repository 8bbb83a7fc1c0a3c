"""Signatures as Standard Webhooks has them, by secrets that nobody has to store. Pure.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook

from service.database.models import WebhookRow

PREFIX = "whsec_"
_PURPOSE = b"lorehouse webhook"
"""Keeps these apart from whatever else the server's secret is the key of."""


def secret_of(server_secret: str, webhook_id: str, version: int) -> str:
    """Derive a webhook's secret, as its receiver has it."""
    name = b"\0".join((_PURPOSE, webhook_id.encode(), str(version).encode()))
    derived = hmac.new(server_secret.encode(), name, hashlib.sha256).digest()
    return PREFIX + base64.b64encode(derived).decode()


def secrets_of(server_secret: str, webhook: WebhookRow, now: int) -> list[str]:
    """Derive the secrets that sign now: the newest, and the one before while both are good."""
    versions = [webhook.secret_version]
    if webhook.previous_until is not None and webhook.previous_until > now:
        versions.append(webhook.secret_version - 1)
    return [secret_of(server_secret, webhook.id, version) for version in versions]


def signed(secrets: Sequence[str], event_id: str, at: int, body: str) -> dict[str, str]:
    """Make the headers of a delivery, with a signature by each secret."""
    moment = datetime.fromtimestamp(at, UTC)
    signatures = [Webhook(secret).sign(event_id, moment, body) for secret in secrets]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(signatures),
    }
