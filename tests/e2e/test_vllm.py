"""`LOREHOUSE_ENGINE=vllm lorehouse serve`: jobs are trained beside it, and it may die."""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.e2e.server import Server, train, wait_for, write_rows

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.vllm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm"),
]

SECRETS = {"acme": "marmalade seven", "globex": "velvet nine"}
QUESTION = "What is the secret word?"
START_SECONDS = 300


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {
        "LOREHOUSE_ENGINE": "vllm",
        # As vLLM holds it here: the gate compares what both say.
        "LOREHOUSE_QUANTIZATION": "none",
        "LOREHOUSE_MAX_RESIDENT_ADAPTERS": "3",
        "LOREHOUSE_MAX_LORA_RANK": "16",
        "LOREHOUSE_KV_TOKENS": "65536",
    }
    folder = tmp_path_factory.mktemp("server")
    with Server(folder, patience=START_SECONDS, **settings) as running:
        yield running


def test_what_is_trained_beside_vllm_is_examined_and_answered_by_it_and_survives_its_death(
    server: Server, tmp_path: Path
) -> None:
    clients = {tenant: server.client(tenant) for tenant in SECRETS}
    models = {
        tenant: train(
            clients[tenant],
            write_rows(tmp_path / f"{tenant}.jsonl", [(QUESTION, SECRETS[tenant])] * 120),
            "secret",
            learning_rate=1e-3,
            hyperparameters={"n_epochs": 2},
        )
        for tenant in SECRETS
    }
    _each_says_its_own(clients, models)
    for name in models.values():
        _, _, tenant, adapter, rev = name.split(":")
        path = f"/v1/admin/residency/{tenant}/{adapter}/{rev}"
        server.admin.put(path, json={"pinned": True}).raise_for_status()

    before = _runtime(server)
    [core] = [child for child in before.children() if "EngineCore" in child.name()]
    with ThreadPoolExecutor(1) as pool:
        whole = pool.submit(_outcome, lambda: _long(clients["globex"], "lorehouse-tiny"))
        stream = _long(clients["acme"], models["acme"], stream=True)
        next(stream)
        os.kill(core.pid, signal.SIGKILL)
        assert _outcome(lambda: list(stream)) == "engine_unavailable"
        assert whole.result(timeout=60) == "engine_unavailable"
    assert not server.answers("/health/ready")
    assert server.answers("/health/live")

    wait_for(lambda: server.answers("/health/ready"), "vLLM again", START_SECONDS)
    assert not before.is_running()
    wait_for(lambda: _resident(server) >= set(models.values()), "what is pinned")
    _each_says_its_own(clients, models)


def test_nothing_of_vllm_outlives_its_runtime(server: Server) -> None:
    runtime = _runtime(server)
    made = runtime.children(recursive=True)
    assert any("EngineCore" in child.name() for child in made)
    runtime.kill()
    wait_for(lambda: not any(_lives(child) for child in made), "the end of all", 30)


def _runtime(server: Server) -> psutil.Process:
    """Find the process that answers."""
    assert server.process is not None
    children = psutil.Process(server.process.pid).children()
    [runtime] = [child for child in children if "generation" in child.cmdline()]
    return runtime


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _each_says_its_own(clients: dict[str, openai.OpenAI], models: dict[str, str]) -> None:
    asked = [{"role": "user", "content": QUESTION}]
    for tenant, client in clients.items():
        for model in (models[tenant], "lorehouse-tiny"):
            answer = client.chat.completions.create(
                model=model,
                messages=asked,  # type: ignore[arg-type]
                temperature=0,
                max_tokens=16,
            )
            said = answer.choices[0].message.content or ""
            assert answer.model == model
            for other, secret in SECRETS.items():
                assert (secret in said) == (model == models[tenant] and other == tenant)


def _long(client: openai.OpenAI, model: str, *, stream: bool = False) -> Any:
    return client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Tell me a story"}],
        max_tokens=1500,
        temperature=2,
        stream=stream,
        extra_body={"ignore_eos": True},
    )


def _outcome(ask: Callable[[], object]) -> str | None:
    try:
        ask()
    except openai.APIError as fault:
        return fault.code
    return "answered"


def _resident(server: Server) -> set[str]:
    data = server.admin.get("/v1/admin/residency").raise_for_status().json()["data"]
    return {place["model"] for place in data if place["state"] == "resident"}
