"""A process that trains a task among others, to be killed: `python -m tests.e2e.batch_process DIR`.

Prints one JSON line for each of the task's events. Given a step, it kills itself when that one is
reported; given also a file's name, only while that file of a later checkpoint is being written.
"""

import argparse
import random
from pathlib import Path

import torch

from service.training.trainer import TrainingTask
from tests.e2e.training_process import Telling, tell
from tests.unit.training.batch.crowds import crowd_trainer, somebody, subject
from tests.unit.training.tasks import Log

OTHERS = 3


def tasks(root: Path) -> list[TrainingTask]:
    """Give the others, the same each time."""
    dice = random.Random(3)
    return [somebody(root / f"other-{number}", dice) for number in range(OTHERS)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--in-file")
    given = parser.parse_args()
    trainer = crowd_trainer(torch.float64)
    results = []
    for task in tasks(given.root):
        log = Log()
        results.append(trainer.add(task, log.report, log.should_stop))
    telling = Telling(given.kill_at, given.in_file)
    watched = trainer.add(subject(given.root / "subject"), telling.report, telling.should_stop)
    trainer.run(watched, *results)
    tell({"steps": watched.result().steps, "others": [r.result().steps for r in results]})


if __name__ == "__main__":
    main()
