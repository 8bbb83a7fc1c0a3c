"""Processes that train and kill themselves: `python -m tests.e2e.NAME FOLDER`.

They print one JSON line for each event. Given a step, such a process dies when that one is
reported; given also a file's name, while that file of a later checkpoint is being written.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from service.training.trainer import StepDone, TrainingEvent

ROOT = Path(__file__).resolve().parents[2]


def run(
    name: str, folder: Path, kill_at: int | None = None, in_file: str | None = None
) -> tuple[int, list[dict[str, Any]]]:
    """Let the process train; give the step it began at, and what it told."""
    how = [] if kill_at is None else ["--kill-at", str(kill_at)]
    how += [] if in_file is None else ["--in-file", in_file]
    done = subprocess.run(
        [sys.executable, "-m", f"tests.e2e.{name}", str(folder), *how],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (-signal.SIGKILL if how else 0), done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    return told[0]["step"], told


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


def given() -> tuple[Path, Telling]:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--in-file")
    read = parser.parse_args()
    return read.folder, Telling(read.kill_at, read.in_file)
