"""kill -9 of a training process, at a step and in the middle of a checkpoint: nothing is lost."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(600)]


def run(workdir: Path, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Let a process train; give its exit code and what it told."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.training_process", str(workdir), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The adapter of a process that nobody kills."""
    code, told = run(tmp_path_factory.mktemp("calm"))
    assert code == 0
    weights: str = told[-1]["weights"]
    return weights


def test_a_process_killed_at_several_steps_ends_with_the_same_adapter(
    tmp_path: Path, calm: str
) -> None:
    begins = []
    for step in ("2", "5", "8"):
        code, told = run(tmp_path, "--kill-at", step)
        assert code == -signal.SIGKILL
        begins.append(told[0]["step"])
    code, told = run(tmp_path)
    assert (code, told[-1]["weights"]) == (0, calm)
    assert [*begins, told[0]["step"]] == [0, 0, 4, 6]


@pytest.mark.parametrize("file", ["optimizer.pt", "complete.json"])
def test_a_process_killed_while_it_writes_a_checkpoint_resumes_from_the_one_before(
    tmp_path: Path, calm: str, file: str
) -> None:
    code, _ = run(tmp_path, "--kill-at", "6", "--in-file", file)
    assert code == -signal.SIGKILL
    assert (tmp_path / "checkpoints" / "unfinished").is_dir()
    code, told = run(tmp_path)
    assert (code, told[-1]["weights"]) == (0, calm)
    assert told[0]["step"] == 4
