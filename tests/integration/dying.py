"""Requests in a process of their own, which dies in the middle of one."""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from sqlalchemy import event

from service.app import create_app
from service.database import Database
from service.settings import Settings
from service.tenants.usage_counters import Amount, Counter
from service.tenants.usage_meter import UsageMeter

PATH = "/v1/uploads"
BODY = {"filename": "a", "purpose": "fine-tune", "bytes": 5, "mime_type": "text/plain"}
IN_IT, AFTER_IT = "in the transaction that creates", "between it and the answer"

_PROCESSES = multiprocessing.get_context("forkserver")


@contextmanager
def generating(settings: Settings, counter: Counter, used: Amount) -> Iterator[None]:
    """Let a request use this much and go on, in a process that is killed at the end."""
    process = _PROCESSES.Process(target=_generate, args=(settings, counter, used))
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join(60)


def killed(settings: Settings, headers: dict[str, str], when: str) -> bool:
    """Whether the process that was asked died of it."""
    process = _PROCESSES.Process(target=_ask, args=(settings, headers, when))
    process.start()
    process.join(60)
    return process.exitcode == -signal.SIGKILL


def _generate(settings: Settings, counter: Counter, used: Amount) -> None:
    async def generate() -> None:
        meter = UsageMeter(Database(settings.sqlalchemy_url))
        async with meter.running():
            meter.open(counter, lambda: used)
            await asyncio.Event().wait()

    asyncio.run(generate())


def _ask(settings: Settings, headers: dict[str, str], when: str) -> None:
    asyncio.run(_asking(settings, headers, when))


async def _asking(settings: Settings, headers: dict[str, str], when: str) -> None:
    database = Database(settings.sqlalchemy_url)
    app = create_app(settings, database=database)

    async def dying(scope: Any, receive: Any, send: Any) -> None:
        async def send_or_die(message: Any) -> None:
            if when == AFTER_IT:
                _die()
            await send(message)

        await app(scope, receive, send_or_die)

    if when == IN_IT:
        event.listen(database.engine.sync_engine, "before_cursor_execute", _die_at_the_answer)
    transport = httpx.ASGITransport(dying)
    async with httpx.AsyncClient(transport=transport, base_url="http://lorehouse.test") as client:
        await client.post(PATH, json=BODY, headers=headers)


def _die_at_the_answer(_: Any, __: Any, statement: str, *___: Any) -> None:
    if statement.startswith("INSERT INTO idempotency_keys"):
        _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
