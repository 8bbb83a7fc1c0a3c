"""Adapters of stock PEFT come in and answer as PEFT does; a kill -9 meanwhile leaves no trace."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.settings import BUNDLED_BASE
from tests.e2e.server import ROOT, Server, wait_for
from tests.integration.importing import IMPORT, archive_form

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that computes as PEFT does by default: on unquantised weights, in float32."""
    folder = tmp_path_factory.mktemp("exact")
    exact = {"LOREHOUSE_QUANTIZATION": "none", "LOREHOUSE_COMPUTE_DTYPE": "float32"}
    with Server(folder, **exact) as running:
        yield running


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What another script made with stock PEFT: an adapter, and its answers."""
    folder = tmp_path_factory.mktemp("theirs")
    script = [sys.executable, "-m", "tests.e2e.peft_process", str(BUNDLED_BASE), str(folder)]
    subprocess.run(script, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def archive(theirs: Path) -> bytes:
    path = theirs / "adapter.tar.gz"
    with tarfile.open(path, "w:gz") as out:
        out.add(theirs / "adapter", "adapter")
    return path.read_bytes()


@contextlib.contextmanager
def calling(server: Server, tenant: str) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {server.client(tenant).api_key}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=120) as client:
        yield client


def complete(client: httpx.Client, model: str, prompt: str) -> tuple[str, str]:
    greedy = {"max_tokens": 24, "temperature": 0, "ignore_eos": True}
    answer = client.post("/v1/completions", json={"model": model, "prompt": prompt} | greedy)
    body = answer.raise_for_status().json()
    return body["model"], body["choices"][0]["text"]


def test_an_adapter_of_stock_peft_answers_here_as_there(
    server: Server, theirs: Path, archive: bytes
) -> None:
    with calling(server, "acme") as client:
        answer = client.post(IMPORT, **archive_form(archive, format="raw"))
        assert answer.status_code == 201, answer.text
        model = answer.json()["model"]
        told: list[dict[str, Any]] = json.loads((theirs / "answers.json").read_text())
        for one in told:
            assert one["tuned"] != one["base"]
            assert complete(client, model, one["prompt"]) == (model, one["tuned"])
            assert complete(client, "lorehouse-tiny", one["prompt"])[1] == one["base"]


def test_kill_9_during_imports_leaves_nothing_of_them(server: Server, archive: bytes) -> None:
    data = Path(server.settings["LOREHOUSE_DATA_DIR"])
    sent = threading.Event()

    def half() -> Iterator[bytes]:
        yield body[: len(body) // 2]
        sent.wait(60)

    with calling(server, "globex") as client:
        form = client.build_request("POST", IMPORT, **archive_form(archive))
        body = form.read()
        # Nobody will say whether the engine likes the one that comes whole.
        os.kill(server.runtime_pid(), signal.SIGSTOP)
        with (
            asking(client, form.headers, body) as whole,
            asking(client, form.headers, half()) as begun,
        ):
            wait_for(lambda: trials(data) and len(incoming(data)) > 1, "the imports")
            server.kill()
            sent.set()
            assert whole.exception(60) is not None
            assert begun.exception(60) is not None
        assert server.run("store", "check") == 0
        server.start()
        wait_for(lambda: not trials(data), "the end of the trial")
        assert not incoming(data)
        assert client.get("/v1/adapters").json()["data"] == []
        made = client.post(IMPORT, headers=form.headers, content=body)
        assert made.status_code == 201, made.text
        model = made.json()["model"]
        assert complete(client, model, "The password")[0] == model


@contextlib.contextmanager
def asking(
    client: httpx.Client, headers: httpx.Headers, content: bytes | Iterator[bytes]
) -> Iterator[Future[httpx.Response]]:
    """Ask in a thread."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(client.post, IMPORT, headers=headers, content=content)


def incoming(data: Path) -> list[Path]:
    return list(data.glob("incoming/*"))


def trials(data: Path) -> list[Path]:
    return list(data.glob("adapters/globex/import/*"))
