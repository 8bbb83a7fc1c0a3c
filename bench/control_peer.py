"""The peer of `control`: a bare Litestar app that gives the same answers, from memory.

No database, no keys, no log, no metrics; the same server with the same options.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from litestar import Litestar, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream

from bench.control_load import BEAT

Canned = dict[str, Any]
"""Answers by path."""


def app(canned: Canned, events: str, period: float) -> Litestar:
    """Make a handler for each path; `events` is the template of the streams' path."""

    @get(events)
    async def follow(job: str) -> Stream:  # noqa: ARG001 - the path's
        return Stream(_silence(period), media_type="text/event-stream")

    handlers = [_handler(call, answer) for call, answer in canned.items()]
    return Litestar([follow, *handlers], logging_config=None, openapi_config=None)


def _handler(call: str, answer: Any) -> HTTPRouteHandler:
    method, path = call.split(" ")

    async def give() -> Any:
        return answer

    give.__annotations__["return"] = dict[str, Any]
    return (get if method == "GET" else post)(path, status_code=200)(give)


async def _silence(period: float) -> AsyncIterator[bytes]:
    yield BEAT + b"\n\n"
    while True:
        await asyncio.sleep(period)
        yield BEAT + b"\n\n"


if __name__ == "__main__":
    given = msgspec.json.decode(Path(sys.argv[2]).read_bytes())
    uvicorn.run(
        app(**given),
        port=int(sys.argv[1]),
        access_log=False,
        lifespan="off",
        log_config=None,
        server_header=False,
        loop="uvloop",
        backlog=2048,
    )
