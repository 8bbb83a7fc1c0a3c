"""Prompts, completions and keys are never logged, whatever happens to the request.

A framework's logging plugin printed bodies and cookies, and structlog's tracebacks print every
frame's local variables: neither may come back.
"""

import io
import logging

import httpx
import pytest
from litestar import Litestar, post
from litestar.params import JSONBody

from service.telemetry import configure_logging

PROMPT = "the-merger-is-on-friday"
COOKIE = "session-of-a-person"
HEADER = "a-custom-token"
ADMIN = "the-operators-own-key"


@pytest.fixture
def log(logging_restored: None) -> io.StringIO:
    """All that the process logs, as in production."""
    configure_logging("debug")
    written = io.StringIO()
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(written)
    return written


async def test_no_secret_is_logged_by_any_route(
    log: io.StringIO, acme: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    headers = {"cookie": f"s={COOKIE}", "x-token": HEADER}
    messages = [{"role": "user", "content": PROMPT}]
    chat = {"model": "lorehouse-tiny", "messages": messages}
    made = await admin.post("/v1/admin/tenants/acme/keys", json={"name": "k"}, headers=headers)
    secrets = [PROMPT, COOKIE, HEADER, ADMIN, made.json()["key"]]
    own = headers | {"authorization": f"Bearer {made.json()['key']}"}
    answers = [
        await acme.post("/v1/chat/completions", json=chat, headers=own),
        await acme.post("/v1/chat/completions", json=chat | {"stream": True}, headers=own),
        await acme.post("/v1/chat/completions", json=chat | {"unknown": PROMPT}, headers=own),
        await acme.post("/v1/chat/completions", content=PROMPT.encode(), headers=own),
        await acme.post("/v1/completions", json={"model": "x", "prompt": PROMPT}, headers=own),
        await acme.get(f"/v1/files/{PROMPT}?q={PROMPT}", headers=own),
        await acme.get(f"/{PROMPT}", headers=own),
        await acme.get("/v1/models", headers=headers | {"authorization": f"Bearer {PROMPT}"}),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 400, 400, 404, 404, 404, 401]
    completion = answers[0].json()["choices"][0]["message"]["content"]
    assert log.getvalue().count("request.answered") > len(answers)
    for secret in [*secrets, completion]:
        assert secret not in log.getvalue()


async def test_a_traceback_shows_no_local_variables(log: io.StringIO, app: Litestar) -> None:
    @post("/v1/broken")
    async def broken(data: JSONBody[dict[str, str]]) -> None:
        raise RuntimeError(f"{len(data)} fields")

    app.register(broken)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        headers = {"authorization": f"Bearer {ADMIN}", "cookie": COOKIE}
        answer = await client.post("/v1/broken", json={"prompt": PROMPT}, headers=headers)
    assert answer.status_code == 500
    assert "RuntimeError" in log.getvalue()
    assert "in broken" in log.getvalue() or '"name": "broken"' in log.getvalue()
    for secret in (PROMPT, COOKIE, ADMIN):
        assert secret not in log.getvalue()
