"""One task at a time through one of TRL's trainers, on a twin of the base."""

import gc
import hashlib
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import msgspec

from service.base.loading import LoadedBase
from service.base.probes import Probes
from service.rendering.renderer import Renderer
from service.training import lora
from service.training.checkpoints import Checkpoints
from service.training.probing import Prober
from service.training.reporting import Reporter, Schedule
from service.training.resumable import REQUIRED, Resumable
from service.training.spec import TrainingSpec
from service.training.trainer import (
    CheckpointDue,
    EpochDone,
    Evaluated,
    Started,
    TrainingError,
    TrainingEvent,
    TrainingOutcome,
    TrainingTask,
)
from service.training.twin import twin

WAIT_SECONDS = 0.5
"""Between two looks whether to stop waiting."""

_ALONE = Lock()

_FORMAT = "solo 2"
"""Change it when a checkpoint of before must not be resumed from."""


class Counts(msgspec.Struct, frozen=True):
    """How many examples a task has."""

    train: int
    validation: int
    truncated: int
    dropped: int


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A task, ready to be trained: from its newest checkpoint, or from the start."""

    task: TrainingTask
    trainer: Resumable
    schedule: Schedule
    checkpoints: Checkpoints
    counts: Counts
    evaluate: Callable[[int], Evaluated | None]
    """Measures at a step; draws no random numbers that training would have drawn."""
    logged: Mapping[str, str]
    """See Reporter."""
    probes: Probes
    """What its adapters are examined by, not yet scored."""

    def go(
        self, report: Callable[[TrainingEvent], None], should_stop: Callable[[], bool]
    ) -> TrainingOutcome:
        """Train to the end, or to the next step once asked to stop."""
        trainer, probing = self.trainer, self._prober()
        reporter = Reporter(
            self.schedule,
            trainer.metrics,
            self.task.spec.method,
            self.logged,
            report=report,
            should_stop=should_stop,
            evaluate=self.evaluate,
            end_epoch=lambda epoch, step: report(
                EpochDone(
                    epoch, step, self._write("epoch"), dict(trainer.metrics), probing.after(step)
                )
            ),
        )
        trainer.add_callback(reporter)
        report(self._started())
        trainer.run(self.checkpoints, lambda step: report(CheckpointDue(step)))
        steps = trainer.state.global_step
        return TrainingOutcome(
            adapter=self._write("final"),
            steps=steps,
            trained_tokens=int(trainer.state.num_input_tokens_seen),
            metrics=dict(trainer.metrics),
            probes=None if steps < self.schedule.total_steps else probing.after(steps),
        )

    def _started(self) -> Started:
        return Started(
            step=self.checkpoints.newest_step(),
            total_steps=self.schedule.total_steps,
            train_examples=self.counts.train,
            validation_examples=self.counts.validation,
            truncated_examples=self.counts.truncated,
            dropped_examples=self.counts.dropped,
            probes=self.probes,
        )

    def _prober(self) -> Prober:
        score = self.trainer.score
        return Prober(self.probes, partial(score, bare=True), partial(score, bare=False))

    def _write(self, name: str) -> Path:
        folder = self.task.workdir / name
        shutil.rmtree(folder, ignore_errors=True)
        return self.trainer.write(folder)


class SoloTrainer(ABC):
    """Implements `Trainer` for one method, in any one thread.

    The base may serve and train meanwhile; `pause` is called before each decoder layer. In a
    process one of these trains at a time and others wait: TRL draws from torch's global random
    state.
    """

    def __init__(
        self,
        loaded: LoadedBase,
        renderer: Renderer,
        checkpoint_steps: int,
        pause: Callable[[], None] | None = None,
    ) -> None:
        self.loaded = loaded
        self.renderer = renderer
        self.checkpoint_steps = checkpoint_steps
        self._pause = pause

    def train(
        self,
        task: TrainingTask,
        report: Callable[[TrainingEvent], None],
        should_stop: Callable[[], bool],
    ) -> TrainingOutcome:
        """See Trainer.train."""
        _refuse(task.spec)
        while not _ALONE.acquire(timeout=WAIT_SECONDS):
            if should_stop():
                return TrainingOutcome(task.workdir, 0, 0, metrics={}, probes=None)
        try:
            model = twin(self.loaded.model, self._pause)
            lora.check_targets(model, task.spec.lora, task.spec.method)
            return self.prepare(task, model).go(report, should_stop)
        finally:
            # A trainer, its model and its hooks hold each other, and their memory with them.
            gc.collect()
            _ALONE.release()

    @abstractmethod
    def prepare(self, task: TrainingTask, model: Any) -> Run:
        """Render the task, and put its adapter on the twin. Raises TrainingError."""

    def checkpoints(self, task: TrainingTask, rows: Iterable[Any]) -> Checkpoints:
        """Find the task's checkpoints, told from others by all that decides its result."""
        base = f"{_FORMAT} {self.loaded.description.digest} {self.loaded.quantization}"
        whole = hashlib.sha256(base.encode())
        for part in [task.spec, *rows]:
            whole.update(msgspec.json.encode(part))
        return Checkpoints(task.workdir / "checkpoints", whole.hexdigest(), REQUIRED)


def _refuse(spec: TrainingSpec) -> None:
    # Left unread they would silently be another training.
    for field in ("early_stopping", "base_adapter"):
        if getattr(spec, field) is not None:
            message = f"The method '{spec.method}' cannot do {field}"
            raise TrainingError(message, "unsupported_parameter", f"method.{spec.method}.{field}")
