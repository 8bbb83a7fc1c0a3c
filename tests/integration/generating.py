"""What the tests of the generation endpoints share."""

import asyncio
import hashlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn
from litestar import Litestar
from openai import AsyncOpenAI

from service.adapters.repository import RevisionRepository
from service.database import Database

BASE = "lorehouse-tiny"
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]


def digest_of(tenant: str, adapter: str) -> str:
    """The digest that `publish` gives to a tenant's adapter."""
    return hashlib.sha256(f"{tenant}/{adapter}".encode()).hexdigest()


async def publish(database: Database, tenant: str, adapter: str, form: str = "chat") -> str:
    """Make a model of the tenant's callable; its name."""
    digest = digest_of(tenant, adapter)
    async with database.write() as session:
        return await RevisionRepository(session).record(
            tenant, adapter, digest, base_name=BASE, format=form, job_id="ftjob-1", size=0
        )


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The error of an answer, whose shape is always OpenAI's."""
    body = answer.json()
    assert list(body) == ["error"], body
    assert {"message", "type", "param", "code"} <= body["error"].keys()
    error: dict[str, Any] = body["error"]
    return error


def events_of(answer: httpx.Response) -> list[Any]:
    """The events of a stream that came to its proper end."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, done, end = answer.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


@asynccontextmanager
async def served(app: Litestar) -> AsyncIterator[str]:
    """Serve the app on a real socket, in this event loop; its URL."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
        listening.close()


def sdk_of(client: httpx.AsyncClient, url: str) -> AsyncOpenAI:
    """OpenAI's client with the same key, which tries nothing again."""
    key = str(client.headers["authorization"]).removeprefix("Bearer ")
    return AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def over_the_wire(client: httpx.AsyncClient, url: str) -> httpx.AsyncClient:
    """A client with the same key, on real connections."""
    return httpx.AsyncClient(headers=client.headers, base_url=url)
