"""What counts as a key, and what a key's holder may do."""

from typing import Any

import pytest

from service.database import Database
from service.database.models import TenantRow
from service.errors import Unauthenticated
from service.tenants.auth import bearer
from service.tenants.principal import DEFAULT_SCOPES, OPERATOR, Principal
from service.tenants.quotas import Quotas
from service.tenants.schemas import CreateKey
from service.tenants.service import TenantService


def scope(value: bytes | None) -> Any:
    headers = [] if value is None else [(b"authorization", value)]
    return {"type": "http", "headers": headers}


@pytest.mark.parametrize("value", [b"Bearer lh-1", b"bearer lh-1", b"BEARER  lh-1 "])
def test_the_scheme_is_case_insensitive_and_blanks_are_trimmed(value: bytes) -> None:
    assert bearer(scope(value)) == "lh-1"


@pytest.mark.parametrize("value", [None, b"", b"lh-1", b"Bearer", b"Bearer  ", b"Basic lh-1"])
def test_anything_else_is_no_key(value: bytes | None) -> None:
    with pytest.raises(Unauthenticated):
        bearer(scope(value))


def test_only_the_operator_is_admin() -> None:
    assert OPERATOR.is_admin
    assert not Principal("acme", "key_1", frozenset({"admin"})).is_admin


@pytest.fixture
async def tenants(database: Database) -> TenantService:
    service = TenantService(database, admin_key="operator", secret="one", quotas=Quotas())
    await service.create("acme")
    return service


async def test_a_key_names_its_tenant_and_scopes(tenants: TenantService) -> None:
    row, key = await tenants.create_key("acme", CreateKey(name="ci"))
    assert await tenants.authenticate(key) == Principal("acme", row.id, frozenset(DEFAULT_SCOPES))


async def test_the_admin_key_is_the_operators(tenants: TenantService) -> None:
    assert await tenants.authenticate("operator") == OPERATOR


@pytest.mark.parametrize("key", ["", "operato", "operator ", "lh-unknown", "é"])
async def test_a_wrong_key_is_nobodys(tenants: TenantService, key: str) -> None:
    with pytest.raises(Unauthenticated):
        await tenants.authenticate(key)


async def test_hashes_are_keyed_by_the_secret(tenants: TenantService, database: Database) -> None:
    _, key = await tenants.create_key("acme", CreateKey(name="ci"))
    other = TenantService(database, admin_key="operator", secret="another", quotas=Quotas())
    with pytest.raises(Unauthenticated):
        await other.authenticate(key)


async def test_revoking_twice_keeps_the_first_date(
    tenants: TenantService, database: Database
) -> None:
    row, key = await tenants.create_key("acme", CreateKey(name="ci"))
    await tenants.revoke("acme", row.id)
    first = (await tenants.keys("acme"))[0].revoked_at
    await tenants.revoke("acme", row.id)
    assert (await tenants.keys("acme"))[0].revoked_at == first
    with pytest.raises(Unauthenticated):
        await tenants.authenticate(key)
    async with database.read() as session:
        assert await session.get(TenantRow, "acme") is not None
