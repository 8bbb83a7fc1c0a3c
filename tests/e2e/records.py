"""What the database says when all is over, read without any code of ours."""

import asyncio
import json
from typing import Any

import asyncpg
import msgspec

from tests.e2e.fleet import DATABASE
from tests.postgres import Postgres

JOBS = "SELECT id, status, error_code, error_message, lease_token FROM jobs"
EVENTS = "SELECT job_id, id, message FROM job_events ORDER BY seq"
REVISIONS = """
SELECT m.job_id, r.digest, r.gate FROM fine_tuned_models m
JOIN revisions r ON r.id = m.revision_id WHERE m.step IS NULL
"""
TRAINED = "SELECT tenant_id, sum(trained_tokens) FROM jobs GROUP BY tenant_id"
ACCOUNTED = "SELECT tenant_id, sum(output_tokens) FROM usage WHERE kind = 'trained' GROUP BY 1"

Row = dict[str, Any]


class Records(msgspec.Struct, frozen=True):
    """Rows, by the jobs or tenants that they are of."""

    jobs: dict[str, Row]
    events: dict[str, list[Row]]
    revisions: dict[str, list[str]]
    losses: dict[str, float]
    trained: dict[str, int]
    accounted: dict[str, int]


def records(server: Postgres) -> Records:
    """Read a fleet's database."""
    return asyncio.run(_read(server))


async def _read(server: Postgres) -> Records:
    connection = await asyncpg.connect(host=str(server.folder), user="postgres", database=DATABASE)
    try:
        made = await connection.fetch(REVISIONS)
        events: dict[str, list[Row]] = {}
        for row in await connection.fetch(EVENTS):
            events.setdefault(row["job_id"], []).append(dict(row))
        revisions: dict[str, list[str]] = {}
        for job, digest, _ in made:
            revisions.setdefault(job, []).append(digest)
        return Records(
            jobs={row["id"]: dict(row) for row in await connection.fetch(JOBS)},
            events=events,
            revisions=revisions,
            losses={job: _loss(json.loads(gate)) for job, _, gate in made},
            trained={name: int(n or 0) for name, n in await connection.fetch(TRAINED)},
            accounted={name: int(n) for name, n in await connection.fetch(ACCOUNTED)},
        )
    finally:
        await connection.close()


def _loss(gate: Row) -> float:
    """Give the loss on held-out examples that the serving engine found."""
    [found] = [check for check in gate["checks"] if check["name"] == "held_out_loss"]
    loss: float = found["figures"]["loss"]
    return loss
