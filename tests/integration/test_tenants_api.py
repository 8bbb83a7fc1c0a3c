"""The operator makes tenants and keys over HTTP; keys open what they should, and nothing else."""

from typing import Any

import httpx
import pytest
from litestar import Litestar
from sqlalchemy import select

from service.database import Database
from service.database.models import ApiKeyRow
from service.tenants.auth import SCOPE_MARK

TENANTS = "/v1/admin/tenants"


async def make_key(admin: httpx.AsyncClient, tenant: str, **body: Any) -> dict[str, Any]:
    answer = await admin.post(f"{TENANTS}/{tenant}/keys", json={"name": "ci"} | body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_a_tenant_is_made_shown_and_listed(admin: httpx.AsyncClient) -> None:
    made = await admin.post(TENANTS, json={"id": "acme"})
    assert made.status_code == 201
    assert made.json()["id"] == "acme"
    assert (await admin.get(f"{TENANTS}/acme")).json() == made.json()
    assert (await admin.get(TENANTS)).json() == {"object": "list", "data": [made.json()]}


async def test_a_taken_id_is_a_permanent_conflict(admin: httpx.AsyncClient) -> None:
    await admin.post(TENANTS, json={"id": "acme"})
    again = await admin.post(TENANTS, json={"id": "acme"})
    assert again.status_code == 409
    assert again.headers["x-should-retry"] == "false"
    assert again.json()["error"]["param"] == "id"


@pytest.mark.parametrize("name", ["", "Acme", "-a", ".a", "a b", "a/b", "..", "acme\n", "a" * 65])
async def test_a_bad_id_is_refused_by_name(admin: httpx.AsyncClient, name: str) -> None:
    answer = await admin.post(TENANTS, json={"id": name})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "id"


async def test_an_unknown_tenant_is_not_found(admin: httpx.AsyncClient) -> None:
    assert (await admin.get(f"{TENANTS}/globex")).status_code == 404
    assert (await admin.get(f"{TENANTS}/globex/keys")).status_code == 404
    made = await admin.post(f"{TENANTS}/globex/keys", json={"name": "ci"})
    assert made.status_code == 404


async def test_a_key_is_shown_once_and_stored_as_a_keyed_hash(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient, database: Database
) -> None:
    made = await make_key(admin, "acme")
    assert made["key"].startswith("lh-")
    assert made["key"].endswith(made["hint"])
    listed = (await admin.get(f"{TENANTS}/acme/keys")).json()["data"][-1]
    assert listed == {name: value for name, value in made.items() if name != "key"}
    async with database.read() as session:
        row = await session.scalar(select(ApiKeyRow).where(ApiKeyRow.id == made["id"]))
    assert row is not None
    stored = [str(getattr(row, column.key)) for column in ApiKeyRow.__table__.columns]
    assert not any(made["key"] in value for value in stored)
    assert len(row.hash) == 64


async def test_omitted_scopes_are_all_but_admin(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    made = await make_key(admin, "acme")
    assert set(made["scopes"]) == {"files", "jobs", "generate", "adapters", "usage"}


async def test_an_unknown_scope_is_refused_by_name(admin: httpx.AsyncClient) -> None:
    answer = await admin.post(f"{TENANTS}/acme/keys", json={"name": "ci", "scopes": ["root"]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "scopes[0]"


async def test_a_revoked_key_fails_at_once(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    made = await make_key(admin, "acme")
    assert (await acme.get("/v1/models", headers=bearer(made["key"]))).status_code == 200
    revoked = await admin.delete(f"{TENANTS}/acme/keys/{made['id']}")
    assert revoked.json() == {"id": made["id"], "object": "api_key", "deleted": True}
    refused = await acme.get("/v1/models", headers=bearer(made["key"]))
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "invalid_api_key"
    listed = (await admin.get(f"{TENANTS}/acme/keys")).json()["data"][-1]
    assert listed["revoked_at"] is not None


async def test_a_key_is_revoked_under_its_own_tenant_only(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    made = await make_key(admin, "acme")
    assert (await admin.delete(f"{TENANTS}/globex/keys/{made['id']}")).status_code == 404
    assert (await acme.get("/v1/models", headers=bearer(made["key"]))).status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": ""}, {"authorization": "Bearer"}, bearer("lh-wrong")]
)
async def test_without_a_good_key_nothing_is_told(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    for path in ("/v1/models", f"{TENANTS}/acme", "/metrics"):
        answer = await client.get(path, headers=headers)
        assert answer.status_code == 401, path
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_missing_scope_is_forbidden_and_named(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    key = bearer((await make_key(admin, "acme", scopes=["files"]))["key"])
    assert (await acme.get("/v1/files", headers=key)).status_code == 200
    refused = await acme.get("/v1/fine_tuning/jobs", headers=key)
    assert refused.status_code == 403
    assert "'jobs'" in refused.json()["error"]["message"]


async def test_no_tenants_key_opens_administration(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    key = bearer((await make_key(admin, "acme", scopes=["admin"]))["key"])
    for headers in ({}, key):
        assert (await acme.get(TENANTS, headers=headers)).status_code == 403
        assert (await acme.get("/metrics", headers=headers)).status_code == 403


async def test_the_admin_key_belongs_to_no_tenant(admin: httpx.AsyncClient) -> None:
    for path in ("/v1/files", "/v1/fine_tuning/jobs", "/v1/models"):
        assert (await admin.get(path)).status_code == 403, path


def test_every_tenant_route_asks_for_a_scope_or_a_tenant(app: Litestar) -> None:
    for route in app.routes:
        if not route.path.startswith("/v1/"):
            continue
        for handler in getattr(route, "route_handlers", []):
            if "OPTIONS" in handler.http_methods:
                continue
            scoped = any(hasattr(guard, SCOPE_MARK) for guard in handler.resolve_guards())
            tenants_own = "tenant_id" in handler.parsed_fn_signature.parameters
            assert scoped or tenants_own, handler
