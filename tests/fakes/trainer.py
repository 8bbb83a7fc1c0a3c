"""A trainer without a model: real files, real checkpoints, and numbers that depend on the task."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from safetensors.numpy import load_file, save_file

from service.rendering.examples import ChatExample, Example
from service.training.checkpoints import Checkpoints
from service.training.trainer import (
    CheckpointDue,
    EpochDone,
    Evaluated,
    Started,
    StepDone,
    TrainingError,
    TrainingEvent,
    TrainingOutcome,
    TrainingTask,
)
from tests.builders import a_peft_folder, lora_weights

WEIGHTS, STATE = "adapter_model.safetensors", "state.json"
Weights = dict[str, np.ndarray]


class State(msgspec.Struct):
    """What a resumed run must know."""

    step: int = 0
    tokens: int = 0
    metrics: dict[str, float | None] = {}


class FakeTrainer:
    """Implements `Trainer`. `on_step` is called, in the trainer's thread, before each step."""

    def __init__(
        self, checkpoint_steps: int = 3, on_step: Callable[[int], None] = lambda _: None
    ) -> None:
        self._checkpoint_steps = checkpoint_steps
        self.on_step = on_step

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

    def go(self, should_stop: Callable[[], bool]) -> TrainingOutcome:
        """Train to the end, or to the next step once asked to stop."""
        self._resume()
        self.report(
            Started(self.state.step, self.total, len(self.train), len(self.task.validation), 0, 0)
        )
        if self.state.step == 0:
            self._evaluate()
        while self.state.step < self.total:
            self._step()
            if self._after_step(stopping=should_stop()):
                break
        return TrainingOutcome(
            adapter=self._write("final"),
            steps=self.state.step,
            trained_tokens=self.state.tokens,
            stopped=self.state.step < self.total,
            metrics=dict(self.state.metrics),
        )

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

    def _after_step(self, *, stopping: bool) -> bool:
        step = self.state.step
        if step % self.per_epoch == 0:
            self._evaluate()
            adapter = self._write("epoch")
            epoch = step // self.per_epoch
            self.report(EpochDone(epoch, step, adapter, dict(self.state.metrics)))
        if stopping or step % self.checkpoint_steps == 0 or step % self.per_epoch == 0:
            self.report(CheckpointDue(step))
            self.checkpoints.write(step, self._fill)
        return stopping

    def _evaluate(self) -> None:
        if self.task.validation:
            loss = 5.0 / (1 + self.state.step)
            self.state.metrics |= {"valid_loss": loss, "valid_mean_token_accuracy": 0.5}
            self.report(Evaluated(self.state.step, loss, 0.5))

    def _write(self, name: str) -> Path:
        folder = self.task.workdir / name
        shutil.rmtree(folder, ignore_errors=True)
        return a_peft_folder(
            folder,
            targets=("q_proj",),
            layers=1,
            weights=self.weights,
            base_model_name_or_path="lorehouse-tiny",
        )

    def _fill(self, folder: Path) -> None:
        save_file(self.weights, folder / WEIGHTS)
        (folder / STATE).write_bytes(msgspec.json.encode(self.state))

    def _resume(self) -> None:
        newest = self.checkpoints.newest()
        if newest is not None:
            self.weights = load_file(newest / WEIGHTS)
            self.state = msgspec.json.decode((newest / STATE).read_bytes(), type=State)


def _teaches(example: Example) -> bool:
    if not isinstance(example, ChatExample):
        return True
    return any(m.role == "assistant" and m.weight != 0 for m in example.messages)
