"""Whatever the endpoint and the name: each answer names the revision that gave it, whole."""

from typing import Any

import httpx
import pytest

from service.database import Database
from tests.fakes.engine import FakeEngine
from tests.integration.aliasing import NEW, A, B, naming, put, record
from tests.integration.generating import BASE, CHAT, COMPLETIONS, HELLO, events_of

GENERATE = "/v1/tenants/acme/generate"
HEADER = "x-lorehouse-revision"


@pytest.fixture
def engine() -> FakeEngine:
    """Answers for revisions whose files nobody made."""
    return FakeEngine()


def asking(path: str, model: str, stream: bool) -> dict[str, Any]:
    fields: dict[str, dict[str, Any]] = {
        CHAT: {"model": model, "messages": HELLO},
        COMPLETIONS: {"model": model, "prompt": "x"},
        GENERATE: {"adapter": model, "prompt": "x"},
    }
    return {**fields[path], "stream": stream, "max_tokens": 3}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, GENERATE])
async def test_every_answer_names_its_revision(
    acme: httpx.AsyncClient, database: Database, engine: FakeEngine, path: str, stream: bool
) -> None:
    older, newer = await record(database, A), await record(database, B)
    checkpoint = await record(database, B, step=4)
    await put(acme, "canary", naming(A), NEW)
    names = {
        older: (older, A),
        checkpoint: (checkpoint, B),
        "support": (newer, B),
        "support@canary": (older, A),
        f"support@{A[:8]}": (older, A),
        f"support@{B}": (newer, B),
        BASE: (BASE, None),
    }
    for name, (model, digest) in names.items():
        answer = await acme.post(path, json=asking(path, name, stream))
        assert answer.status_code == 200, answer.text
        told = events_of(answer) if stream else [answer.json()]
        assert {one["model"] for one in told} == {model}, name
        assert answer.headers.get(HEADER) == digest
        revision = engine.requests[-1].revision
        assert (revision.digest if revision else None) == digest
