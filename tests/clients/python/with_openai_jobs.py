"""`openai` for Python: files, uploads, fine-tuning jobs and models; webhooks of jobs' ends."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import Queue

import openai
import page
import pytest
from asking import until
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

BASE = "lorehouse-tiny"
ENDED = {"succeeded", "failed", "cancelled"}


@pytest.fixture
def file(client: OpenAI, rows: Path) -> str:
    return client.files.create(file=rows, purpose="fine-tune").id


def test_files(client: OpenAI, rows: Path) -> None:
    made = client.files.create(
        file=rows, purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert client.files.wait_for_processing(made.id).status == "processed"
    assert made.expires_at == made.created_at + 3600
    other = client.files.create(file=("notes.txt", b"notes"), purpose="user_data")
    assert {made.id, other.id} <= {f.id for f in client.files.list(limit=1)}
    assert other.id not in {f.id for f in client.files.list(purpose="fine-tune", order="asc")}
    assert client.files.content(made.id).read() == rows.read_bytes()
    assert client.files.retrieve(other.id).filename == "notes.txt"
    for file in (made, other):
        assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)


def test_a_bad_file_is_refused_by_line(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.files.create(file=("rows.jsonl", b'{"text": "good"}\n{}\n'), purpose="fine-tune")
    assert refused.value.code == "invalid_training_file"
    assert [fault["line"] for fault in refused.value.body["errors"]] == [2]


def test_uploads(client: OpenAI, rows: Path) -> None:
    done = client.uploads.upload_file_chunked(
        file=rows, mime_type="application/jsonl", purpose="fine-tune", part_size=999
    )
    assert done.status == "completed"
    assert client.files.content(done.file.id).read() == rows.read_bytes()
    begun = client.uploads.create(
        bytes=9, filename="rows.jsonl", mime_type="application/jsonl", purpose="fine-tune"
    )
    assert client.uploads.parts.create(begun.id, data=b"some").upload_id == begun.id
    assert client.uploads.cancel(begun.id).status == "cancelled"


def test_a_job_that_is_paused_resumed_and_cancelled(client: OpenAI, file: str) -> None:
    job = client.fine_tuning.jobs.create(
        model=BASE,
        training_file=file,
        metadata={"of": file},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 50}}},
    )

    def has(status: str) -> bool:
        return client.fine_tuning.jobs.retrieve(job.id).status == status

    client.fine_tuning.jobs.pause(job.id)
    until(lambda: has("paused"))
    assert client.fine_tuning.jobs.resume(job.id).status in {"queued", "running"}
    with pytest.raises(openai.ConflictError) as used:
        client.files.delete(file)
    assert used.value.code == "file_in_use"
    assert used.value.request.headers["x-stainless-retry-count"] == "0"
    client.fine_tuning.jobs.cancel(job.id)
    until(lambda: has("cancelled"))
    found = client.fine_tuning.jobs.list(extra_query={"metadata[of]": file})
    assert [one.id for one in found] == [job.id]


def test_a_job_from_its_beginning_to_its_models_end(client: OpenAI, file: str) -> None:
    with receiving() as (url, received):
        hook = client.post("/webhooks", body={"url": url}, cast_to=dict[str, object])
        job = client.fine_tuning.jobs.create(
            model=BASE, training_file=file, suffix="python", hyperparameters={"n_epochs": 1}
        )
        event = client.webhooks.unwrap(*received.get(timeout=120), secret=hook["secret"])
        client.delete(f"/webhooks/{hook['id']}", cast_to=dict[str, object])
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert (event.type, event.data.id) == ("fine_tuning.job.succeeded", job.id), done.error
    assert client.models.retrieve(done.fine_tuned_model).id == done.fine_tuned_model
    assert client.models.delete(done.fine_tuned_model).deleted
    assert done.fine_tuned_model not in {model.id for model in client.models.list()}


def test_a_forged_webhook_is_not_believed(client: OpenAI) -> None:
    headers = {"webhook-id": "evt_1", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA"}
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap("{}", headers, secret="whsec_AAAA")


def test_lists_page_by_themselves(client: OpenAI, job: str, model: str) -> None:
    jobs: list[FineTuningJob] = list(client.fine_tuning.jobs.list(limit=1))
    assert job in {one.id for one in jobs}
    events = list(client.fine_tuning.jobs.list_events(job, limit=7))
    assert len({event.id for event in events}) == len(events) > 7
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job, limit=1))
    steps = [checkpoint.step_number for checkpoint in checkpoints]
    assert steps == sorted(set(steps), reverse=True)
    assert len(steps) == 3
    assert checkpoints[0].fine_tuned_model_checkpoint == f"{model}:ckpt-step-{steps[0]}"


def test_the_page_is_true(
    rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(rows.parent)
    rows.rename("train.jsonl")
    page.run("openai, Python")
    assert "ftjob-" in capsys.readouterr().out


@contextmanager
def receiving() -> Iterator[tuple[str, "Queue[tuple[bytes, dict[str, str]]]"]]:
    """Listen for webhooks: their bodies and headers."""
    received: Queue[tuple[bytes, dict[str, str]]] = Queue()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.put((body, dict(self.headers)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/hook", received
        server.shutdown()
        thread.join()
