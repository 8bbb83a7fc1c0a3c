"""kill -9 of a runtime, while it trains and while it answers: nothing accepted is lost."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from tests.e2e.server import Server, ended, train, wait_for, write_rows

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

METHOD = {"hyperparameters": {"n_epochs": 2}, "lora": {"dropout": 0.1}}


def _weights(server: Server, tenant: str) -> list[str]:
    root = Path(server.settings["LOREHOUSE_DATA_DIR"]) / "adapters"
    found = sorted(root.rglob("adapter_model.safetensors"))
    return [hashlib.sha256(f.read_bytes()).hexdigest() for f in found if tenant in f.parts]


def test_a_killed_training_runtime_resumes_to_the_same_adapter(
    server: Server, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [(f"Say {i}", f"It is {i}") for i in range(200)])
    calm = train(server.client("calm"), rows, "same", **METHOD)

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

    def step_after(least: int) -> bool:
        events = client.fine_tuning.jobs.list_events(job.id, limit=1).data
        data = events[0].data if events else None
        return isinstance(data, dict) and data.get("step", 0) >= least

    for step in (7, 33):
        wait_for(lambda least=step: step_after(least), f"step {step}")
        server.kill_runtime()
        assert server.answers("/health/live")
        assert client.models.list().data[0].id == "lorehouse-tiny"

    done = ended(client, job.id)
    assert done.status == "succeeded", done.error
    # Equal to the last byte, although it was killed twice and dropout was on.
    assert _weights(server, "stormy") == _weights(server, "calm")
    assert (done.fine_tuned_model or "").rsplit(":", 1)[1] == calm.rsplit(":", 1)[1]
    messages = [e.message for e in client.fine_tuning.jobs.list_events(job.id, limit=100)]
    assert len([m for m in messages if m.startswith("New fine-tuned model created")]) == 1


def test_a_killed_generation_runtime_fails_what_was_in_flight_and_serves_what_comes_next(
    server: Server, tmp_path: Path
) -> None:
    client = server.client("acme")
    rows = write_rows(tmp_path / "rows.jsonl", [("What is the secret word?", "quartz-12")] * 120)
    model = train(client, rows, "survivor", hyperparameters={"n_epochs": 4})

    def long_answer(_: int) -> str:
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

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(long_answer, n) for n in range(8)]
        wait_for(lambda: _running(server) >= 1, "generation under way")
        server.kill_runtime()
        outcomes = {future.result(timeout=60) for future in asked}
    assert "503 engine_unavailable" in outcomes
    assert outcomes <= {"503 engine_unavailable", "answered"}
    assert server.answers("/health/live")

    wait_for(lambda: server.answers("/health/ready"), "the engine's return")
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What is the secret word?"}],
        temperature=0,
        max_tokens=20,
    )
    assert (answer.model, answer.choices[0].message.content) == (model, "quartz-12")


def _running(server: Server) -> float:
    for line in server.admin.get("/metrics").text.splitlines():
        if line.startswith("lorehouse_engine_running"):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError("no lorehouse_engine_running in /metrics")
