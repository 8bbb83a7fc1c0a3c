"""SIGTERM to a runtime that only trains: it keeps the step that it is at, and exits with 0."""

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import ROOT, Server, wait_for, write_rows

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_a_runtime_that_only_trains_ends_in_order_at_the_step_it_is_at(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [(f"Say {i}", f"It is {i}") for i in range(160)])
    with Server(tmp_path, LOREHOUSE_CHECKPOINT_STEPS="1000") as server:
        client = server.client("acme")
        with rows.open("rb") as stream:
            file = client.files.create(file=stream, purpose="fine-tune")
        supervised: Any = {"hyperparameters": {"n_epochs": 20}}
        method: Any = {"type": "supervised", "supervised": supervised}
        job = client.fine_tuning.jobs.create(
            model="lorehouse-tiny", training_file=file.id, method=method
        )
        assert server.stop() == 0
        runtime = subprocess.Popen(
            [sys.executable, "-m", "service", "runtime", "training"],
            cwd=ROOT,
            env=server._environment(),
        )
        try:
            wait_for(lambda: _steps(server) >= 3, "three steps")
            runtime.send_signal(signal.SIGTERM)
            assert runtime.wait(60) == 0
        finally:
            runtime.kill()
        assert _ask(server, "SELECT status, attempts, lease_owner FROM jobs") == [
            ("queued", 0, None)
        ]
        data = Path(server.settings["LOREHOUSE_DATA_DIR"])
        kept = [int(f.name[5:]) for f in (data / "jobs" / job.id / "checkpoints").glob("step-*")]
        assert max(kept) == _steps(server)


def _steps(server: Server) -> int:
    told = _ask(server, "SELECT message FROM job_events WHERE message LIKE '%training loss%'")
    return len(told)


def _ask(server: Server, query: str) -> list[Any]:
    path = Path(server.settings["LOREHOUSE_DATA_DIR"], "lorehouse.db")
    with closing(sqlite3.connect(path, timeout=30)) as database:
        return database.execute(query).fetchall()
