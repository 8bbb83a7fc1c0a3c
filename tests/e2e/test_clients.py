"""Clients that we did not write, unmodified, against `lorehouse serve`."""

from collections.abc import Iterator

import msgspec
import pytest

from tests.e2e import clients, lessons
from tests.e2e.server import Server, train

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose webhooks may come to loopback."""
    folder = tmp_path_factory.mktemp("server")
    with Server(folder, LOREHOUSE_WEBHOOKS_PRIVATE="true") as running:
        yield running


@pytest.fixture(scope="module")
def account(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment that a client finds: where to ask, by which key, and what is there."""
    acme, limited = server.client("acme"), server.client("limited")
    limits = {"limits": {"requests_per_minute": 1}}
    server.admin.patch("/v1/admin/tenants/limited", json=limits).raise_for_status()
    rows = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows.write_bytes(b"\n".join(map(msgspec.json.encode, lessons.rows())))
    often = {"n_epochs": 3, "batch_size": 4}
    model = train(acme, rows, "support", hyperparameters=often, learning_rate=1e-3)
    return {
        "OPENAI_BASE_URL": f"{server.url}/v1",
        "OPENAI_API_KEY": acme.api_key,
        "CLIENTS_MODEL": model,
        "CLIENTS_JOB": acme.fine_tuning.jobs.list().data[0].id,
        "CLIENTS_LIMITED_KEY": limited.api_key,
    }


@pytest.fixture(scope="module")
def python() -> str:
    return str(clients.python_environment())


@pytest.fixture(scope="module")
def node() -> str:
    return clients.node_environment()


@pytest.mark.parametrize("client", ["openai", "litellm", "langchain"])
def test_a_python_client(client: str, python: str, account: dict[str, str]) -> None:
    scenarios = sorted(path.name for path in clients.PYTHON.glob(f"with_{client}*.py"))
    told = clients.run([python, "-m", "pytest", *scenarios], account, clients.PYTHON)
    assert " passed in " in told
    assert "skipped" not in told


def test_the_node_client(node: str, account: dict[str, str]) -> None:
    scenarios = sorted(path.name for path in clients.NODE.glob("*.test.mjs"))
    command = [node, "--test", "--test-reporter=tap", *scenarios]
    told = clients.run(command, account, clients.NODE)
    assert "# fail 0" in told
    assert "# skipped 0" in told


def test_patient_clients_wait_out_a_restart(
    server: Server, python: str, node: str, account: dict[str, str]
) -> None:
    with (
        clients.started([python, "waits.py"], account, clients.PYTHON) as one,
        clients.started([node, "waits.mjs"], account, clients.NODE) as other,
    ):
        for client in (one, other):
            assert client.stdout is not None
            assert client.stdout.readline() == "answered\n"
        server.kill_runtime()
        for client in (one, other):
            told, _ = client.communicate(timeout=120)
            assert client.returncode == 0, told
