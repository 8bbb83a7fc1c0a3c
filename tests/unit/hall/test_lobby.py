"""While the app is being made the process shows that it lives, and keeps its callers."""

import asyncio
from typing import Any

import httpx

from service.lobby import Lobby


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the path that was asked for."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


def client(lobby: Lobby) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(lobby), base_url="http://test")


async def test_liveness_is_answered_at_once() -> None:
    async with client(Lobby()) as caller:
        answer = await caller.get("/health/live", headers={"x-request-id": "mine"})
    assert answer.json() == {"status": "live"}
    assert answer.headers["x-request-id"] == "mine"


async def test_whatever_else_waits_for_the_app() -> None:
    lobby = Lobby()
    async with client(lobby) as caller, asyncio.timeout(5):
        waiting = asyncio.create_task(caller.get("/v1/models"))
        assert (await caller.get("/health/live")).status_code == 200
        assert not waiting.done()
        lobby.admit(app)
        assert (await waiting).text == "/v1/models"


async def test_once_it_is_there_the_app_answers_everything() -> None:
    lobby = Lobby()
    lobby.admit(app)
    async with client(lobby) as caller:
        assert (await caller.get("/health/live")).text == "/health/live"


async def test_who_waits_for_a_start_that_failed_is_told() -> None:
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    scope = {"type": "http", "path": "/v1/models", "headers": []}
    waiting = asyncio.create_task(Lobby()(scope, None, send))
    await asyncio.sleep(0)
    waiting.cancel()
    await waiting
    assert messages[0]["status"] == 503
    assert b"shutting_down" in messages[1]["body"]
