"""What the tests of adapters and aliases share."""

from typing import Any

import httpx

from service.adapters.repository import RevisionRepository
from service.database import Database

ADAPTERS = "/v1/adapters"
ALIASES = f"{ADAPTERS}/support/aliases"
BASE = "lorehouse-tiny"
A, B, C = "a" * 64, "b" * 64, "c" * 64
NEW = {"if-none-match": "*"}


def at(version: int) -> dict[str, str]:
    """The header that names the version to change."""
    return {"if-match": f'"{version}"'}


def naming(*revisions: str, reason: str = "it is better", **weights: int) -> dict[str, Any]:
    """The body that makes an alias name some revisions."""
    targets = [{"revision": rev, "weight": weights.get(rev[0], 1)} for rev in revisions]
    return {"targets": targets, "reason": reason}


async def record(
    database: Database,
    digest: str,
    tenant: str = "acme",
    adapter: str = "support",
    step: int | None = None,
    job_id: str = "ftjob-1",
) -> str:
    """Make a revision callable, as a job does; its name."""
    async with database.write() as session:
        return await RevisionRepository(session).record(
            tenant, adapter, digest, base_name=BASE, format="chat", job_id=job_id, size=0, step=step
        )


async def put(
    client: httpx.AsyncClient, alias: str, body: dict[str, Any], headers: dict[str, str]
) -> dict[str, Any]:
    """Move an alias of the adapter `support`; what it is then."""
    answer = await client.put(f"{ALIASES}/{alias}", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["etag"] == f'"{answer.json()["version"]}"'
    moved: dict[str, Any] = answer.json()
    return moved


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error of an answer that is one."""
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error
