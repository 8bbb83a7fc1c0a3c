"""A job pauses, the runtime ends, in order or by kill -9: nothing accepted is lost."""

import hashlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.server import Server, ended, train, wait_for, write_rows

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

METHOD = {"hyperparameters": {"n_epochs": 2}, "lora": {"dropout": 0.1}}
QUESTION = "Say 7"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    return write_rows(path, [(f"Say {i}", f"It is {i}") for i in range(160)])


@pytest.fixture(scope="module")
def calm(server: Server, rows: Path) -> str:
    """The model of a job that nothing interrupts."""
    return train(server.client("calm"), rows, "same", **METHOD)


def _weights(server: Server, tenant: str) -> list[str]:
    root = Path(server.settings["LOREHOUSE_DATA_DIR"]) / "adapters"
    found = sorted(root.rglob("adapter_model.safetensors"))
    return [hashlib.sha256(f.read_bytes()).hexdigest() for f in found if tenant in f.parts]


def test_a_job_that_pauses_and_whose_runtime_ends_twice_makes_the_same_adapter(
    server: Server, rows: Path, calm: str
) -> None:
    client = server.client("stormy")
    with rows.open("rb") as stream:
        file = client.files.create(file=stream, purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="lorehouse-tiny",
        training_file=file.id,
        suffix="same",
        seed=7,
        method={"type": "supervised", "supervised": METHOD},  # type: ignore[typeddict-item]
    )

    def told() -> list[str]:
        return [e.message for e in client.fine_tuning.jobs.list_events(job.id, limit=100).data]

    def reached(step: int) -> bool:
        return any(message.startswith(f"Step {step}/") for message in told())

    wait_for(lambda: reached(3), "step 3")
    client.fine_tuning.jobs.pause(job.id)
    wait_for(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "paused", "the pause")
    trained = [m for m in told() if "training loss" in m]
    folders = Path(server.settings["LOREHOUSE_DATA_DIR"], "jobs", job.id, "checkpoints")
    kept = [int(folder.name[5:]) for folder in folders.glob("step-*")]
    assert trained[0].startswith(f"Step {max(kept)}/"), "at the step that it was at"
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    wait_for(lambda: len([m for m in told() if "training loss" in m]) > len(trained), "a step")
    os.kill(server.runtime_pid(), signal.SIGTERM)
    wait_for(lambda: reached(33), "step 33")
    messages = told()
    assert "Training was interrupted by a shutdown and will resume" in messages
    steps = [m.split(":")[0] for m in messages if "training loss" in m]
    assert len(set(steps)) == len(steps), "each step is told once"
    log = server.log.read_text()
    assert '"exit_code": 0' in log
    assert "job.crashed" not in log

    server.kill_runtime()
    assert server.answers("/health/live")
    assert client.models.list().data[0].id == "lorehouse-tiny"

    done = ended(client, job.id)
    assert done.status == "succeeded", done.error
    # Equal to the last byte, although it was broken off three times and dropout was on.
    assert _weights(server, "stormy") == _weights(server, "calm")
    assert (done.fine_tuned_model or "").rsplit(":", 1)[1] == calm.rsplit(":", 1)[1]
    assert len([m for m in told() if m.startswith("New fine-tuned model created")]) == 1


def test_a_runtime_killed_while_it_answers_fails_what_was_in_flight_and_serves_what_comes_next(
    server: Server, calm: str
) -> None:
    client = server.client("calm")
    before = _answer(client, calm)
    assert before != _answer(client, "lorehouse-tiny")
    _, _, tenant, adapter, rev = calm.split(":")
    path = f"/v1/admin/residency/{tenant}/{adapter}/{rev}"
    server.admin.put(path, json={"pinned": True}).raise_for_status()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(_outcome, client) for _ in range(8)]
        wait_for(lambda: _running(server) >= 1, "generation under way")
        server.kill_runtime()
        outcomes = {future.result(timeout=60) for future in asked}
    assert "503 engine_unavailable" in outcomes
    assert outcomes <= {"503 engine_unavailable", "answered"}
    assert server.answers("/health/live")

    wait_for(lambda: server.answers("/health/ready"), "the engine's return")
    place = wait_for(lambda: _resident(server, calm), "what is pinned, without a request")
    assert (place["pinned"], place["hits"], place["last_used_at"]) == (True, 0, None)
    assert _answer(client, calm) == before


def _answer(client: openai.OpenAI, model: str) -> str:
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=20,
    )
    assert answer.model == model
    return answer.choices[0].message.content or ""


def _outcome(client: openai.OpenAI) -> str:
    """Ask for a long answer."""
    try:
        client.chat.completions.create(
            model="lorehouse-tiny",
            messages=[{"role": "user", "content": "Tell me a story"}],
            max_tokens=1500,
            temperature=2,
            extra_body={"logit_bias": {}},
        )
    except openai.InternalServerError as fault:
        return f"{fault.status_code} {fault.code}"
    return "answered"


def _resident(server: Server, model: str) -> dict[str, Any] | None:
    """Find the place of a model that is loaded."""
    data = server.admin.get("/v1/admin/residency").raise_for_status().json()["data"]
    return next((p for p in data if (p["model"], p["state"]) == (model, "resident")), None)


def _running(server: Server) -> float:
    for line in server.admin.get("/metrics").text.splitlines():
        if line.startswith("lorehouse_engine_running"):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError("no lorehouse_engine_running in /metrics")
