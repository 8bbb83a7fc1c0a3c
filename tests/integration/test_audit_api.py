"""The audit: one line for each request that may change something, in the change's transaction."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from litestar import Litestar
from sqlalchemy import select, text

from service.database import Database
from service.database.models import TenantRow, UploadRow
from service.tenants.audit import CHANGES_NOTHING, SAFE
from tests.integration.generating import BASE, CHAT, HELLO

AUDIT = "/v1/admin/audit"
UPLOAD = {"filename": "a", "purpose": "fine-tune", "bytes": 5, "mime_type": "text/plain"}


async def lines(client: httpx.AsyncClient, path: str = AUDIT, **query: Any) -> list[dict[str, Any]]:
    answer = await client.get(path, params={"limit": 100} | query)
    assert answer.status_code == 200, answer.text
    listed: list[dict[str, Any]] = answer.json()["data"]
    return listed


async def test_a_line_says_who_did_what_to_what_and_with_what_success(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    made = await acme.post("/v1/uploads", json=UPLOAD, headers={"x-request-id": "mine-1"})
    [key] = (await admin.get("/v1/admin/tenants/acme/keys")).json()["data"]
    line, *before = await lines(admin)
    assert line == {
        "id": line["id"],
        "object": "audit.line",
        "tenant": "acme",
        "api_key_id": key["id"],
        "operation": "createUpload",
        "target": {"created": made.json()["id"]},
        "status": 200,
        "request_id": "mine-1",
        "created_at": line["created_at"],
    }
    told = [(one["operation"], one["tenant"], one["api_key_id"], one["status"]) for one in before]
    assert told == [("createApiKey", "acme", None, 201), ("createTenant", None, None, 201)]
    assert before[0]["target"] == {"tenant": "acme", "created": key["id"]}


def changing(app: Litestar) -> Iterator[tuple[str, str, str, bool]]:
    """Every operation that is no question: method, path, id, and whether it leaves a line."""
    for route in app.routes:
        for handler in getattr(route, "route_handlers", ()):
            for method in sorted(handler.http_methods - SAFE):
                path = re.sub(r"\{[^}]*\}", "nothing", route.path)
                leaves_one = not handler.opt.get(CHANGES_NOTHING)
                yield method, path, str(handler.operation_id), leaves_one


async def test_every_request_that_may_change_something_leaves_exactly_one_line(
    app: Litestar, acme: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    expected = []
    for method, path, operation, leaves_one in changing(app):
        client = admin if path.startswith("/v1/admin/") else acme
        named = {"x-request-id": operation}
        answer = await client.request(method, path, json={"name": "x"}, headers=named)
        expected += [(operation, answer.status_code, operation)] * leaves_one
    assert len(expected) > 20
    made = [(one["operation"], one["status"], one["request_id"]) for one in await lines(admin)]
    assert [line for line in reversed(made) if line[0] == line[2]] == expected


async def test_what_only_asks_leaves_none(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    before = await lines(admin)
    await acme.post(CHAT, json={"model": BASE, "messages": HELLO})
    await acme.get("/v1/files")
    assert await lines(admin) == before


async def test_a_bad_key_leaves_none_and_a_refusal_one(
    client: httpx.AsyncClient, acme: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    assert (await client.post("/v1/uploads", json=UPLOAD)).status_code == 401
    assert (await acme.post("/v1/admin/tenants", json={"id": "x"})).status_code == 403
    line, *_ = await lines(admin)
    assert (line["operation"], line["tenant"], line["status"]) == ("createTenant", "acme", 403)


async def test_a_change_whose_line_cannot_be_written_is_not_made(
    acme: httpx.AsyncClient, database: Database
) -> None:
    async with _without_table(database, "audit"):
        assert (await acme.post("/v1/uploads", json=UPLOAD)).status_code == 500
    async with database.read() as session:
        assert (await session.scalars(select(UploadRow))).all() == []


@asynccontextmanager
async def _without_table(database: Database, name: str) -> AsyncIterator[None]:
    """Hide a table; the next test may have the same database."""
    async with database.write() as session:
        await session.execute(text(f"ALTER TABLE {name} RENAME TO away"))
    try:
        yield
    finally:
        async with database.write() as session:
            await session.execute(text(f"ALTER TABLE away RENAME TO {name}"))


@pytest.fixture
async def owner(acme: httpx.AsyncClient, admin: httpx.AsyncClient, app: Litestar) -> dict[str, str]:
    """A key of acme's that may look at its own audit."""
    body = {"name": "owner", "scopes": ["admin"]}
    made = await admin.post("/v1/admin/tenants/acme/keys", json=body)
    return {"authorization": f"Bearer {made.json()['key']}"}


async def test_a_tenant_sees_its_own_lines_and_none_of_who_had_its_name_before(
    owner: dict[str, str],
    acme: httpx.AsyncClient,
    globex: httpx.AsyncClient,
    admin: httpx.AsyncClient,
    database: Database,
) -> None:
    await acme.post("/v1/uploads", json=UPLOAD)
    await globex.post("/v1/uploads", json=UPLOAD)
    mine = (await acme.get("/v1/audit", headers=owner)).json()["data"]
    assert {line["tenant"] for line in mine} == {"acme"}
    assert mine == await lines(admin, tenant="acme")
    assert (await acme.get("/v1/audit")).status_code == 403
    async with database.write() as session:
        row = await session.get(TenantRow, "acme")
        assert row is not None
        row.created_at = mine[0]["created_at"] + 1
    assert (await acme.get("/v1/audit", headers=owner)).json()["data"] == []
    assert await lines(admin, tenant="acme") == mine


async def test_pages_are_walked_by_last_id(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    for _ in range(3):
        await acme.post("/v1/uploads", json=UPLOAD)
    every = await lines(admin)
    first = (await admin.get(AUDIT, params={"limit": 2})).json()
    assert (first["data"], first["has_more"]) == (every[:2], True)
    assert await lines(admin, after=first["last_id"]) == every[2:]
    assert (await admin.get(AUDIT, params={"after": "audit_0"})).status_code == 400
