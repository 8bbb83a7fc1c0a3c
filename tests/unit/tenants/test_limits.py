"""Limits are read, and a tenant's own go over the server's."""

import pytest

from service.settings import SettingsError
from service.tenants.limits import NONE, Limits, OwnLimits, from_setting, resolve


def test_a_tenants_own_go_over_the_servers_and_null_lifts_one() -> None:
    defaults = Limits(files=10, adapters=2)
    assert resolve(defaults, {"adapters": None, "queued_jobs": 0}) == Limits(
        files=10, queued_jobs=0
    )
    assert resolve(defaults, None) is defaults


def test_what_an_older_or_newer_server_wrote_is_no_fault() -> None:
    assert resolve(NONE, {"of_another_version": 1, "files": 1}) == Limits(files=1)


def test_what_can_be_set_is_what_there_is() -> None:
    assert OwnLimits.__struct_fields__ == Limits.__struct_fields__


def test_the_setting_is_an_object_of_limits_or_nothing() -> None:
    assert from_setting("") == NONE
    assert from_setting('{"files": 3, "adapters": null}') == Limits(files=3)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "TENANT_LIMITS"),
        ("[]", "TENANT_LIMITS"),
        ('{"flies": 3}', "flies"),
        ('{"files": -1}', "files"),
        ('{"files": 1.5}', "files"),
        ('{"requests_per_minute": 0}', "requests_per_minute"),
        ('{"stored_bytes": 1000000000000001}', "stored_bytes"),
    ],
)
def test_a_bad_setting_is_named(text: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        from_setting(text)
