"""kill -9 of a process that trains many tasks: each ends with the weights of no kill."""

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.mortal import run

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(600)]

STEPS = 50
KILLS = (
    (3, None),
    (22, "optimizer.safetensors"),
    (29, None),
    (34, "complete.json"),
    (48, "progress.json"),
)
"""At a step, or in the middle of the checkpoint after it."""
BEGINS = [0, 0, 20, 25, 30, 45]


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


def test_processes_that_are_killed_end_with_the_same_weights(tmp_path: Path) -> None:
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    _, told = run("batch_process", calm)
    assert told[-1]["steps"] == STEPS
    begins = [run("batch_process", stormy, *kill)[0] for kill in KILLS]
    last, told = run("batch_process", stormy)
    assert told[-1]["steps"] == STEPS
    assert [*begins, last] == BEGINS
    expected, found = kept(calm), kept(stormy)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        distance = (found[key] - tensor).double().norm()
        assert distance <= 1e-8 * tensor.double().norm(), key
