"""A trainer without a model: real files, real checkpoints, and numbers that depend on the task."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from safetensors.numpy import load_file, save_file

from service.base.probes import Probe, Probes
from service.rendering.examples import ChatExample, Example
from service.training.checkpoints import Checkpoints
from service.training.early_stopping import Watch, is_over, watch
from service.training.trainer import (
    BestTaken,
    CheckpointDue,
    EpochDone,
    Evaluated,
    Started,
    StepDone,
    StoppedEarly,
    TrainingError,
    TrainingEvent,
    TrainingOutcome,
    TrainingTask,
)
from tests.builders import a_peft_folder, lora_weights
from tests.fakes.words import scores_of

WEIGHTS, STATE = "adapter_model.safetensors", "state.json"
BEST = "best.safetensors"
Weights = dict[str, np.ndarray]


class State(msgspec.Struct):
    """What a resumed run must know."""

    step: int = 0
    tokens: int = 0
    metrics: dict[str, float | None] = {}
    watch: Watch | None = None
    best_metrics: dict[str, float | None] = {}


class FakeTrainer:
    """Implements `Trainer`. `on_step` is called, in the trainer's thread, before each step.

    With `worse_after` that step, the validation loss rises again.
    """

    def __init__(
        self,
        checkpoint_steps: int = 3,
        on_step: Callable[[int], None] = lambda _: None,
        worse_after: int | None = None,
    ) -> None:
        self._checkpoint_steps = checkpoint_steps
        self.on_step = on_step
        self.worse_after = worse_after

    def valid_loss(self, step: int) -> float:
        """Make up a validation loss."""
        turn = step if self.worse_after is None else min(step, self.worse_after)
        return 5.0 / (1 + turn) + (step - turn) / 10

    def train(
        self,
        task: TrainingTask,
        report: Callable[[TrainingEvent], None],
        should_stop: Callable[[], bool],
    ) -> TrainingOutcome:
        """See Trainer.train."""
        train = [example for example in task.train if _teaches(example)]
        if not train:
            message = "No example has a token to learn"
            raise TrainingError(message, "no_trainable_examples", "training_file")
        for field in ("early_stopping", "eval_steps"):
            if getattr(task.spec, field) is not None and not task.validation:
                param = f"method.supervised.{field}"
                raise TrainingError("Nothing to measure", "no_validation_examples", param)
        return _Run(task, train, self, self._checkpoint_steps, report).go(should_stop)


class _Run:
    def __init__(
        self,
        task: TrainingTask,
        train: list[Example],
        trainer: FakeTrainer,
        checkpoint_steps: int,
        report: Callable[[TrainingEvent], None],
    ) -> None:
        self.task, self.train, self.trainer, self.report = task, train, trainer, report
        self.checkpoint_steps = checkpoint_steps
        self.per_epoch = -(-len(train) // task.spec.batch_size)
        self.total = self.per_epoch * task.spec.n_epochs
        fingerprint = hashlib.sha256(msgspec.json.encode((task.spec, task.train))).hexdigest()
        root = task.workdir / "checkpoints"
        self.checkpoints = Checkpoints(root, fingerprint, (WEIGHTS, STATE))
        self.state = State()
        self.weights = lora_weights(4, task.spec.seed, ("q_proj",), 1, 16)
        if task.parent is not None:
            self.weights = load_file(task.parent / WEIGHTS)
        self.best: Weights | None = None

    def go(self, should_stop: Callable[[], bool]) -> TrainingOutcome:
        """Train to the end, or to the next step once asked to stop."""
        self._resume()
        self.report(
            Started(self.state.step, self.total, len(self.train), len(self.task.validation), 0, 0)
        )
        if self.state.step == 0:
            self._evaluate()
        stopping = False
        while self.state.step < self.total and not self._is_over and not stopping:
            self._step()
            stopping = should_stop()
            self._after_step(stopping=stopping)
        stopped = stopping and self.state.step < self.total and not self._is_over
        if not stopped:
            self._tell_of_the_end()
        watch = self.state.watch
        return TrainingOutcome(
            adapter=self._write("final", self.best),
            steps=self.state.step if watch is None else watch.best_step,
            trained_tokens=self.state.tokens,
            metrics=dict(self.state.metrics if watch is None else self.state.best_metrics),
            probes=None if stopped else self._probed(self.task.workdir / "final"),
        )

    @property
    def _is_over(self) -> bool:
        return is_over(self.task.spec.early_stopping, self.state.watch)

    def _step(self) -> None:
        self.trainer.on_step(self.state.step + 1)
        self.state.step += 1
        step, size = self.state.step, self.task.spec.batch_size
        first = (step - 1) % self.per_epoch * size
        batch = msgspec.json.encode(self.train[first : first + size])
        random = np.random.default_rng([self.task.spec.seed, step, *hashlib.sha256(batch).digest()])
        for name, weight in self.weights.items():
            change = random.normal(size=weight.shape) * self.task.spec.learning_rate
            self.weights[name] = (weight + change).astype(np.float32)
        self.state.tokens += len(batch)
        loss = 4.0 / step
        self.state.metrics |= {"train_loss": loss, "train_mean_token_accuracy": 1 / (1 + loss)}
        accuracy, rate = self.state.metrics["train_mean_token_accuracy"], 1000.0
        lr = self.task.spec.learning_rate
        self.report(StepDone(step, self.total, loss, accuracy, lr, self.state.tokens, rate))

    def _after_step(self, *, stopping: bool) -> None:
        step, every = self.state.step, self.task.spec.eval_steps
        if step % self.per_epoch == 0 or (every is not None and step % every == 0):
            self._evaluate()
        if step % self.per_epoch == 0:
            adapter = self._write("epoch")
            epoch = step // self.per_epoch
            probes = self._probed(adapter)
            self.report(EpochDone(epoch, step, adapter, dict(self.state.metrics), probes))
        due = step % self.checkpoint_steps == 0 or step % self.per_epoch == 0
        if stopping or due or self._is_over:
            self.report(CheckpointDue(step))
            self.checkpoints.write(step, self._fill)

    def _evaluate(self) -> None:
        if not self.task.validation:
            return
        state, rule = self.state, self.task.spec.early_stopping
        loss = self.trainer.valid_loss(state.step)
        state.metrics |= {"valid_loss": loss, "valid_mean_token_accuracy": 0.5}
        self.report(Evaluated(state.step, loss, 0.5))
        if rule is not None and state.step:
            state.watch = watch(rule, state.watch, state.step, loss)
            if state.watch.best_step == state.step:
                self.best, state.best_metrics = dict(self.weights), dict(state.metrics)

    def _tell_of_the_end(self) -> None:
        step, seen = self.state.step, self.state.watch
        if seen is not None and step < self.total:
            self.report(StoppedEarly(step, self.total, seen.waited))
        if seen is not None and seen.best_step < step:
            self.report(BestTaken(seen.best_step, seen.best))

    def _probed(self, adapter: Path) -> Probes:
        """Score bytes of the examples by the weights, as the fake engine does."""
        rows = [list(msgspec.json.encode(example)[:64]) for example in self.train[:4]]
        weights = (adapter / WEIGHTS).read_bytes()
        return Probes([Probe(row, scores_of(b"", row), scores_of(weights, row)) for row in rows])

    def _write(self, name: str, weights: Weights | None = None) -> Path:
        folder = self.task.workdir / name
        shutil.rmtree(folder, ignore_errors=True)
        return a_peft_folder(
            folder,
            targets=("q_proj",),
            layers=1,
            weights=weights or self.weights,
            base_model_name_or_path="lorehouse-tiny",
        )

    def _fill(self, folder: Path) -> None:
        save_file(self.weights, folder / WEIGHTS)
        if self.best is not None:
            save_file(self.best, folder / BEST)
        (folder / STATE).write_bytes(msgspec.json.encode(self.state))

    def _resume(self) -> None:
        newest = self.checkpoints.newest()
        if newest is not None:
            self.weights = load_file(newest / WEIGHTS)
            self.state = msgspec.json.decode((newest / STATE).read_bytes(), type=State)
            self.best = load_file(newest / BEST) if self.state.watch is not None else None


def _teaches(example: Example) -> bool:
    if not isinstance(example, ChatExample):
        return True
    return any(m.role == "assistant" and m.weight != 0 for m in example.messages)
