"""kill -9 of a process that trains by `dpo`, at a step and in the middle of a checkpoint."""

from pathlib import Path

import pytest

from tests.e2e.mortal import run
from tests.unit.training.methods import preference_trainer
from tests.unit.training.tasks import Log, sha256, train

pytestmark = [pytest.mark.e2e, pytest.mark.torch]


def test_processes_that_are_killed_end_with_the_same_adapter(tmp_path: Path) -> None:
    from tests.e2e.dpo_process import CHECKPOINT_STEPS, task

    # This process trains undisturbed, and goes on with what the killed ones left.
    trainer, calm, stormy = preference_trainer("none", CHECKPOINT_STEPS), Log(), tmp_path / "stormy"
    train(trainer, task(tmp_path / "calm"), calm)
    begins = [run("dpo_process", stormy, 5)[0], run("dpo_process", stormy, 5, "optimizer.pt")[0]]
    assert (stormy / "checkpoints" / "unfinished").is_dir()
    last = Log()
    outcome = train(trainer, task(stormy), last)
    assert [*begins, last.steps[0] - 1] == [0, 4, 4]
    assert sha256(outcome.adapter) == calm.weights[8]
