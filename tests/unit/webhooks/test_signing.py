"""Secrets that are derived, and signatures that others verify."""

import json
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from service.database.models import WebhookRow
from service.webhooks.signing import secret_of, secrets_of, signed

BODY = json.dumps({"id": "evt_1", "text": "grün"})


def test_a_secret_is_of_its_server_webhook_and_version() -> None:
    told = [
        ("server", "wh_1", 1),
        ("other", "wh_1", 1),
        ("server", "wh_2", 1),
        ("server", "wh_1", 2),
    ]
    assert len({secret_of(*one) for one in told}) == 4
    assert secret_of(*told[0]) == secret_of(*told[0])


def test_while_secrets_overlap_each_of_them_verifies() -> None:
    old, new = (secret_of("server", "wh_1", version) for version in (1, 2))
    headers = signed([new, old], "evt_1", int(time.time()), BODY)
    for secret in (old, new):
        assert Webhook(secret).verify(BODY, headers)["id"] == "evt_1"
    with pytest.raises(WebhookVerificationError):
        Webhook(secret_of("server", "wh_1", 3)).verify(BODY, headers)


@pytest.mark.parametrize(("until", "versions"), [(None, [2]), (999, [2]), (1001, [2, 1])])
def test_the_secret_before_signs_until_its_time_is_over(
    until: int | None, versions: list[int]
) -> None:
    webhook = WebhookRow(id="wh_1", secret_version=2, previous_until=until)
    expected = [secret_of("server", "wh_1", version) for version in versions]
    assert secrets_of("server", webhook, 1000) == expected
