"""Small tasks to train on, and what a run of one leaves behind."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from service.rendering.examples import ChatExample, Example, Message
from service.training.spec import BaseAdapter, LoraSpec, TrainingSpec
from service.training.trainer import (
    StepDone,
    Trainer,
    TrainingEvent,
    TrainingOutcome,
    TrainingTask,
)

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

LORA = LoraSpec(rank=4, alpha=8, dropout=0.1)


class Interrupted(Exception):
    """Raised in the middle of a run, as a crash would end it."""


def chat(question: str, answer: str, weight: int | None = None) -> ChatExample:
    """Make a question with its answer."""
    return ChatExample([Message("user", question), Message("assistant", answer, weight=weight)])


def examples(count: int, offset: int = 0) -> list[Example]:
    """Make examples that differ."""
    return [chat(f"Say {i + offset}", f"It is {i + offset}.") for i in range(count)]


def a_task(
    workdir: Path, validation: int = 3, parent: Path | None = None, **spec: Any
) -> TrainingTask:
    """Make a task of 2 epochs of 4 steps: the last step of each has a single example."""
    chosen = {"n_epochs": 2, "batch_size": 4, "learning_rate": 2e-3, "seed": 5, "lora": LORA} | spec
    if parent is not None:
        chosen["base_adapter"] = BaseAdapter(adapter="parent", digest=sha256(parent))
    return TrainingTask(
        "ftjob-a",
        TrainingSpec(**chosen),
        examples(13),
        examples(validation, 100),
        workdir,
        parent=parent,
    )


class Log:
    """What a run reported; it crashes after the step `until`, and stops with the step `stop`."""

    def __init__(self, until: int | None = None, stop: int | None = None) -> None:
        self.events: list[TrainingEvent] = []
        self.weights: dict[int, str] = {}
        self._asked = 0
        self._until = until
        self._stop = stop

    def report(self, event: TrainingEvent) -> None:
        self.events.append(event)
        if adapter := getattr(event, "adapter", None):
            self.weights[event.step] = sha256(adapter)
        if isinstance(event, StepDone) and event.step == self._until:
            raise Interrupted

    def should_stop(self) -> bool:
        self._asked += 1
        return self._asked == self._stop

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def steps(self) -> list[int]:
        return [event.step for event in self.of(StepDone)]

    @property
    def last_step(self) -> int:
        return max(self.steps, default=0)

    @property
    def losses(self) -> dict[int, float]:
        return {event.step: event.train_loss for event in self.of(StepDone)}


def train(trainer: Trainer, task: TrainingTask, log: Log | None = None) -> TrainingOutcome:
    """Run a task."""
    log = log or Log()
    return trainer.train(task, log.report, log.should_stop)


def sha256(adapter: Path) -> str:
    """Identify an adapter's weights."""
    return hashlib.sha256((adapter / WEIGHTS).read_bytes()).hexdigest()


def config(adapter: Path) -> dict[str, Any]:
    """Read an adapter's config."""
    return msgspec.json.decode((adapter / CONFIG).read_bytes(), type=dict[str, Any])
