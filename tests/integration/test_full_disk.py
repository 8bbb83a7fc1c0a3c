"""No room left: an error that says so and may be tried again, and nothing half kept."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar, post
from prometheus_client import CollectorRegistry
from sqlalchemy import text

from service.database import Database
from service.database.models import TenantRow
from service.errors import StorageFull
from service.http.edge import Edge
from service.http.errors import exception_handlers
from service.http.metrics import RequestMetrics
from service.http.tenant_labels import TenantLabels


async def test_a_full_disk_is_503_and_names_itself() -> None:
    @post("/", sync_to_thread=True)
    def keep() -> None:
        Path("/dev/full").write_bytes(b"x")

    app = Litestar([keep], exception_handlers=exception_handlers, logging_config=None)
    app.asgi_handler = Edge(app.asgi_handler, RequestMetrics(CollectorRegistry(), TenantLabels()))
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post("/")
    error: dict[str, Any] = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (503, "insufficient_storage")
    assert answer.headers["retry-after"]


@pytest.mark.sqlite("only SQLite can be told to be full")
async def test_a_full_database_raises_storage_full_and_keeps_nothing(database: Database) -> None:
    async def overfill() -> None:
        async with database.write() as session:
            await session.execute(text("PRAGMA max_page_count = 1"))
            session.add_all(TenantRow(id=f"t{n:050}", created_at=0) for n in range(1000))

    with pytest.raises(StorageFull):
        await overfill()
    async with database.read() as session:
        assert await session.scalar(text("SELECT count(*) FROM tenants")) == 0
