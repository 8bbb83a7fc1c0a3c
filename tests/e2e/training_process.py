"""A process that trains one task, to be killed: `python -m tests.e2e.training_process WORKDIR`.

Prints one JSON line for each event. Given a step, it kills itself when that one is reported; given
also a file's name, only while that file of a later checkpoint is being written.
"""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec

from service.training.trainer import StepDone, TrainingEvent
from tests.unit.training.real import real_trainer
from tests.unit.training.tasks import a_task, sha256, train

CHECKPOINT_STEPS = 3


class Telling:
    """Prints what is reported, and dies when it is time."""

    def __init__(self, kill_at: int | None, in_file: str | None) -> None:
        self.kill_at, self.in_file = kill_at, in_file

    def report(self, event: TrainingEvent) -> None:
        tell({"event": type(event).__name__, "step": getattr(event, "step", None)})
        if isinstance(event, StepDone) and event.step == self.kill_at:
            if self.in_file is None:
                os.kill(os.getpid(), signal.SIGKILL)
            sys.addaudithook(self._die_at_file)

    def _die_at_file(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "open" and str(arguments[0]).endswith(f"unfinished/{self.in_file}"):
            os.kill(os.getpid(), signal.SIGKILL)

    def should_stop(self) -> bool:
        return False


def tell(line: dict[str, Any]) -> None:
    sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--in-file")
    given = parser.parse_args()
    telling = Telling(given.kill_at, given.in_file)
    trainer = real_trainer("nf4", CHECKPOINT_STEPS)
    outcome = train(trainer, a_task(given.workdir), telling)  # type: ignore[arg-type]
    tell({"weights": sha256(outcome.adapter), "steps": outcome.steps})


if __name__ == "__main__":
    main()
