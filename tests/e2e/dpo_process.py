"""A process that trains one task of the method `dpo`, to be killed; see `mortal`."""

from pathlib import Path

from service.training.trainer import TrainingTask
from tests.e2e.mortal import given, tell
from tests.unit.training.methods import preference_trainer, preferring
from tests.unit.training.tasks import a_task, sha256, train

CHECKPOINT_STEPS = 3


def task(workdir: Path) -> TrainingTask:
    """Give the task, the same each time."""
    return preferring(a_task(workdir))


def main() -> None:
    workdir, telling = given()
    trainer = preference_trainer("none", CHECKPOINT_STEPS)
    outcome = train(trainer, task(workdir), telling)  # type: ignore[arg-type]
    tell({"weights": sha256(outcome.adapter), "steps": outcome.steps})


if __name__ == "__main__":
    main()
