"""A process that trains a task among others, to be killed; see `mortal`."""

import random
from pathlib import Path

import torch

from service.training.trainer import TrainingTask
from tests.e2e.mortal import given, tell
from tests.unit.training.batch.crowds import crowd_trainer, somebody, subject
from tests.unit.training.tasks import Log

OTHERS = 3


def tasks(root: Path) -> list[TrainingTask]:
    """Give the others, the same each time."""
    dice = random.Random(3)
    return [somebody(root / f"other-{number}", dice) for number in range(OTHERS)]


def main() -> None:
    root, telling = given()
    trainer = crowd_trainer(torch.float64)
    results = []
    for task in tasks(root):
        log = Log()
        results.append(trainer.add(task, log.report, log.should_stop))
    watched = trainer.add(subject(root / "subject"), telling.report, telling.should_stop)
    trainer.run(watched, *results)
    tell({"steps": watched.result().steps, "others": [r.result().steps for r in results]})


if __name__ == "__main__":
    main()
