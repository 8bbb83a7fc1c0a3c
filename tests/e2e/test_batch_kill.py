"""kill -9 of a process that trains many tasks: each ends with the weights of no kill."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(600)]

STEPS = 50


def run(root: Path, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Let a process train; give its exit code and what it told."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.batch_process", str(root), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def kept(root: Path) -> dict[str, Any]:
    """Give every task's last state, in float64."""
    from safetensors.torch import load_file

    found = {}
    for task in root.iterdir():
        steps = [int(folder.name[5:]) for folder in (task / "checkpoints").glob("step-*")]
        folder = task / "checkpoints" / f"step-{max(steps)}"
        for name in ("adapter_model.safetensors", "optimizer.safetensors"):
            found |= {f"{task.name} {key}": t for key, t in load_file(folder / name).items()}
    return found


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process that nobody kills ends with."""
    root = tmp_path_factory.mktemp("calm")
    code, told = run(root)
    assert (code, told[-1]["steps"]) == (0, STEPS)
    return kept(root)


def assert_same(root: Path, calm: dict[str, Any]) -> None:
    found = kept(root)
    assert found.keys() == calm.keys()
    for key, expected in calm.items():
        distance = (found[key] - expected).double().norm()
        assert distance <= 1e-8 * expected.double().norm(), key


def test_processes_killed_at_several_steps_end_with_the_same_weights(
    tmp_path: Path, calm: dict[str, Any]
) -> None:
    begins = []
    for step in ("3", "17", "29", "44"):
        code, told = run(tmp_path, "--kill-at", step)
        assert code == -signal.SIGKILL
        begins.append(told[0]["step"])
    code, told = run(tmp_path)
    begins.append(told[0]["step"])
    assert (code, told[-1]["steps"]) == (0, STEPS)
    assert begins == [0, 0, 15, 25, 40]
    assert_same(tmp_path, calm)


@pytest.mark.parametrize("file", ["optimizer.safetensors", "progress.json", "complete.json"])
def test_a_process_killed_while_it_writes_a_checkpoint_resumes_from_the_one_before(
    tmp_path: Path, calm: dict[str, Any], file: str
) -> None:
    code, _ = run(tmp_path, "--kill-at", "22", "--in-file", file)
    assert code == -signal.SIGKILL
    code, told = run(tmp_path)
    assert code == 0
    assert told[0]["step"] == 20
    assert_same(tmp_path, calm)
