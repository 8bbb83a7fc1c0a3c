"""`lorehouse api` as a process: quick to live, clear at start, orderly at its end."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

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
