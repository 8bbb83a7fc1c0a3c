"""The runtime as a process: it ends in order, and holds one base, once for all."""

import os
import signal
from pathlib import Path

import openai
import pytest

from tests.e2e.server import Server, ended, wait_for, write_rows

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_sigterm_ends_the_runtime_within_a_step_and_its_job_goes_on_in_the_next(
    server: Server, tmp_path: Path
) -> None:
    client = server.client("acme")
    rows = write_rows(tmp_path / "rows.jsonl", [(f"Say {i}", f"It is {i}") for i in range(120)])
    with rows.open("rb") as stream:
        file = client.files.create(file=stream, purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="lorehouse-tiny", training_file=file.id, suffix="orderly", seed=7
    )

    def told() -> list[str]:
        return [e.message for e in client.fine_tuning.jobs.list_events(job.id, limit=100).data]

    wait_for(lambda: any(message.startswith("Step 3/") for message in told()), "step 3")
    os.kill(server.runtime_pid(), signal.SIGTERM)
    done = ended(client, job.id)
    assert done.status == "succeeded", done.error
    messages = told()[::-1]
    assert "Training was interrupted by a shutdown and will resume" in messages
    steps = [m.split(":")[0] for m in messages if "training loss" in m]
    assert len(set(steps)) == len(steps), "each step is told once"
    log = server.log.read_text()
    assert '"exit_code": 0' in log
    assert "job.crashed" not in log


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
