"""`lorehouse api` as a process: quick to live, clear at start, orderly at its end."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from service.server import Server
from tests.integration.live import free_port

ROOT = Path(__file__).parents[2]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The API on a free port, with nothing set but its data folder."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LOREHOUSE_")}
    started = subprocess.Popen(
        [sys.executable, "-m", "service", "api"],
        cwd=ROOT,
        env=environment | {"LOREHOUSE_DATA_DIR": str(tmp_path / "data"), "LOREHOUSE_PORT": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield started
    if started.poll() is None:
        started.kill()
    started.communicate()


def test_one_line_tells_where_it_is_and_a_signal_ends_it(
    process: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert process.stdout is not None
    greeting = process.stdout.readline()
    found = re.search(r"(http://127\.0\.0\.1:\d+) - data in (\S+) - admin key in (\S+)", greeting)
    assert found is not None, greeting
    url, data, key_file = found.groups()
    assert data == str(tmp_path / "data")
    key = Path(key_file).read_text().strip()
    assert key not in greeting
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}) as admin:
        assert admin.post("/v1/admin/tenants", json={"id": "acme"}).status_code == 201
        ready = admin.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json()["engine"] == "not_ready"
    process.send_signal(signal.SIGTERM)
    _, logged = process.communicate(timeout=30)
    assert process.returncode == 0
    assert key not in logged
    assert logged.count('"request.answered"') == 1


async def test_what_is_cut_at_the_end_has_ended_before_what_it_stands_on_is_closed() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            # As a transaction is rolled back.
            await asyncio.to_thread(str)
            ended.set()

    config = uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=0)
    server, listening = Server(config), socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with httpx.AsyncClient(base_url=url) as client:
        asking = asyncio.create_task(client.get("/"))
        await begun.wait()
        server.should_exit = True
        await serving
        assert ended.is_set()
        await asyncio.gather(asking, return_exceptions=True)


def test_it_lives_within_two_seconds(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LOREHOUSE_")}
    port = free_port()
    settings = {"LOREHOUSE_DATA_DIR": str(tmp_path), "LOREHOUSE_PORT": str(port)}
    began = time.monotonic()
    started = subprocess.Popen(
        [sys.executable, "-m", "service", "api"],
        cwd=ROOT,
        env=environment | settings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not _lives(port):
            assert time.monotonic() - began < 2
            time.sleep(0.01)
    finally:
        started.kill()
        started.wait()


def _lives(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/live").status_code == 200
    except httpx.TransportError:
        return False
