"""The unmodified `openai` SDK against `lorehouse serve`: from upload to deletion."""

from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import pytest
from openai.types.fine_tuning import FineTuningJob
from pydantic import BaseModel, Field

from tests.e2e.server import Server, ended, wait_for, write_rows

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_the_sdk_does_the_whole_journey(server: Server, tmp_path: Path) -> None:
    client = server.client("acme")
    rows = write_rows(tmp_path / "rows.jsonl", [("What is the secret word?", "marmalade-7")] * 120)

    with rows.open("rb") as stream:
        file = client.files.create(file=stream, purpose="fine-tune")
    assert client.files.wait_for_processing(file.id).status == "processed"
    assert (file.model_extra or {})["rows"] == 120
    assert client.files.content(file.id).read() == rows.read_bytes()

    wanted: dict[str, Any] = {
        "model": "lorehouse-tiny",
        "training_file": file.id,
        "suffix": "secret",
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 4}}},
    }
    plan = client.post("/fine_tuning/plan", body=wanted, cast_to=dict[str, Any])
    job = client.fine_tuning.jobs.create(**wanted, seed=plan["seed"])
    assert job.status in {"validating_files", "queued", "running"}
    assert client.fine_tuning.jobs.list().data[0].id == job.id

    _follow_events(server, client, job.id)
    done = ended(client, job.id)
    assert done.status == "succeeded", done.error
    _it_was_as_planned(client, plan, done)
    model = done.fine_tuned_model
    assert model is not None
    assert model.startswith("ft:lorehouse-tiny:acme:secret:")

    # Callable at once, with no restart.
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What is the secret word?"}],
        temperature=0,
        max_tokens=20,
    )
    assert answer.choices[0].message.content == "marmalade-7"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == model
    assert answer.usage is not None
    assert answer.usage.total_tokens > answer.usage.prompt_tokens > 0

    chunks = list(
        client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "What is the secret word?"}],
            temperature=0,
            max_tokens=20,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "marmalade-7"
    assert chunks[-1].usage == answer.usage
    assert {chunk.model for chunk in chunks} == {model}

    _checkpoints_are_listed_and_callable(client, job.id)
    _models_and_files_are_listed_and_deleted(client, model, file.id)


class Ticket(BaseModel):
    """What a customer wants."""

    kind: Literal["refund", "delivery", "other"]
    urgent: bool
    tags: list[Literal["late", "broken"]] = Field(max_length=2)


def test_a_model_that_was_taught_neither_gives_documents_and_calls(server: Server) -> None:
    client = server.client("acme")
    say: Any = {
        "model": "lorehouse-tiny",
        "messages": [{"role": "user", "content": "My parcel is late."}],
        "temperature": 1.5,
        "max_tokens": 300,
        "seed": 5,
    }
    parsed = client.chat.completions.parse(**say, n=3, response_format=Ticket)
    assert all(isinstance(choice.message.parsed, Ticket) for choice in parsed.choices)

    tools: Any = [openai.pydantic_function_tool(Ticket)]
    forced: Any = {**say, "tools": tools, "tool_choice": "required", "parallel_tool_calls": False}
    [choice] = client.chat.completions.parse(**forced).choices
    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls or ()
    assert isinstance(call.function.parsed_arguments, Ticket)

    with client.chat.completions.stream(**forced) as stream:
        [again] = stream.get_final_completion().choices
    assert [one.function for one in again.message.tool_calls or ()] == [call.function]
    free = client.chat.completions.create(**say, tools=tools)
    assert free.choices[0].finish_reason in {"stop", "length", "tool_calls"}


def _it_was_as_planned(client: openai.OpenAI, plan: dict[str, Any], done: FineTuningJob) -> None:
    assert plan["admitted"]
    assert done.trained_tokens == plan["trained_tokens"]
    newest = client.fine_tuning.jobs.list_events(done.id, limit=50).data
    steps = [e.data["total_steps"] for e in newest if isinstance(e.data, dict)]
    assert set(steps) == {plan["steps"]["total"]}
    # What it is trained on is known by now, at the latest.
    body = {"model": done.model, "training_file": done.training_file}
    again = client.post("/fine_tuning/plan", body=body, cast_to=dict[str, Any])
    [here] = again["hardware"]
    assert here["nf4"]["fits"]
    assert here["nf4"]["total"] < here["bytes"]


def _follow_events(server: Server, client: openai.OpenAI, job: str) -> None:
    key = client.api_key
    streamed: list[str] = []
    with httpx.stream(
        "GET",
        f"{server.url}/v1/fine_tuning/jobs/{job}/events?stream=true",
        headers={"authorization": f"Bearer {key}"},
        timeout=300,
    ) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        streamed = [line for line in stream.iter_lines() if line.startswith("data: ")]
    assert streamed[-1] == "data: [DONE]"

    polled = list(client.fine_tuning.jobs.list_events(job, limit=50))
    assert len(polled) == len(streamed) - 1
    metrics = [e for e in polled if e.type == "metrics" and isinstance(e.data, dict)]
    steps = [e.data for e in metrics if "train_loss" in e.data]  # type: ignore[operator]
    assert {"step", "train_loss", "learning_rate", "tokens_per_second"} <= set(steps[0])  # type: ignore[arg-type]
    held_out = [e.data for e in metrics if "valid_loss" in e.data]  # type: ignore[operator]
    # Newest first: the last evaluation beats the one before training, by far.
    assert held_out[0]["valid_loss"] < held_out[-1]["valid_loss"] / 2  # type: ignore[index]
    assert held_out[-1]["step"] == 0  # type: ignore[index]
    assert held_out[0]["valid_mean_token_accuracy"] > 0.9  # type: ignore[index]


def _checkpoints_are_listed_and_callable(client: openai.OpenAI, job: str) -> None:
    checkpoints = client.fine_tuning.jobs.checkpoints.list(job).data
    assert len(checkpoints) == 4
    newest = checkpoints[0]
    assert newest.metrics.valid_loss is not None
    assert newest.fine_tuned_model_checkpoint.endswith(f":ckpt-step-{newest.step_number}")
    answer = client.chat.completions.create(
        model=newest.fine_tuned_model_checkpoint,
        messages=[{"role": "user", "content": "What is the secret word?"}],
        temperature=0,
        max_tokens=20,
    )
    assert answer.model == newest.fine_tuned_model_checkpoint
    assert answer.choices[0].message.content == "marmalade-7"


def _models_and_files_are_listed_and_deleted(client: openai.OpenAI, model: str, file: str) -> None:
    assert {"lorehouse-tiny", model} <= {m.id for m in client.models.list()}
    assert client.models.retrieve(model).owned_by == "acme"
    assert client.models.delete(model).deleted
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(model)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": "?"}])
    assert client.files.delete(file).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file)


def test_cancel_stops_a_running_job_and_leaves_nothing_callable(
    server: Server, tmp_path: Path
) -> None:
    client = server.client("acme")
    rows = write_rows(tmp_path / "rows.jsonl", [(f"Say {i}", f"{i}") for i in range(400)])
    with rows.open("rb") as stream:
        file = client.files.create(file=stream, purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="lorehouse-tiny",
        training_file=file.id,
        suffix="stopped",
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 50}}},
    )

    def training() -> bool:
        events = client.fine_tuning.jobs.list_events(job.id, limit=5).data
        return any(e.type == "metrics" and "train_loss" in (e.data or {}) for e in events)  # type: ignore[operator]

    wait_for(training, "the first training step")
    client.fine_tuning.jobs.cancel(job.id)
    done = ended(client, job.id, seconds=20)
    assert (done.status, done.fine_tuned_model) == ("cancelled", None)
    # The server is free for the next job, and the base is still itself.
    assert client.chat.completions.create(
        model="lorehouse-tiny", messages=[{"role": "user", "content": "Hello"}], max_tokens=5
    )


def test_training_does_not_stop_generation(server: Server, tmp_path: Path) -> None:
    client = server.client("globex")
    rows = write_rows(tmp_path / "rows.jsonl", [(f"Say {i}", f"{i}") for i in range(400)])
    with rows.open("rb") as stream:
        file = client.files.create(file=stream, purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="lorehouse-tiny", training_file=file.id, suffix="while-serving"
    )

    def steps() -> int:
        events = client.fine_tuning.jobs.list_events(job.id, limit=1).data
        data = events[0].data if events else None
        return data.get("step", 0) if isinstance(data, dict) else 0

    first = wait_for(steps, "the first training step")
    answered = 0
    while steps() < first + 20 and client.fine_tuning.jobs.retrieve(job.id).status == "running":
        client.chat.completions.create(
            model="lorehouse-tiny", messages=[{"role": "user", "content": "Hello"}], max_tokens=16
        )
        answered += 1
    assert answered >= 3
    client.fine_tuning.jobs.cancel(job.id)
    assert ended(client, job.id).status == "cancelled"


def test_a_job_that_wants_the_base_held_otherwise_is_refused(server: Server, dataset: Path) -> None:
    client = server.client("acme")
    with dataset.open("rb") as stream:
        file = client.files.create(file=stream, purpose="fine-tune")
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.jobs.create(
            model="lorehouse-tiny",
            training_file=file.id,
            method={"type": "supervised", "supervised": {"quantization": "none"}},  # type: ignore[typeddict-unknown-key]
        )
    assert refused.value.param == "method.supervised.quantization"
    assert "'nf4'" in refused.value.message
