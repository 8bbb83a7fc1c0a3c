"""The operator makes tenants and keys over HTTP."""

import httpx


async def test_a_tenant_is_made_once(admin: httpx.AsyncClient) -> None:
    made = await admin.post("/v1/admin/tenants", json={"id": "acme"})
    assert made.status_code == 201
    assert made.json()["id"] == "acme"
    again = await admin.post("/v1/admin/tenants", json={"id": "acme"})
    assert again.status_code == 409
    assert again.headers["x-should-retry"] == "false"
    assert again.json()["error"]["param"] == "id"


async def test_unknown_field_is_named(admin: httpx.AsyncClient) -> None:
    answer = await admin.post("/v1/admin/tenants", json={"id": "acme", "metadata": {"data": 1}})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "metadata"
    assert answer.json()["error"]["code"] == "unknown_parameter"
    assert answer.headers["x-request-id"]
