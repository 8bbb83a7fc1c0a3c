"""What a run tells while it goes: steps, evaluations, epochs; and when it must stop or save."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from service.training.lora import non_finite
from service.training.spec import Method
from service.training.trainer import Evaluated, StepDone, TrainingEvent

Metrics = dict[str, float | None]


class Schedule(msgspec.Struct, frozen=True):
    """How many steps a run has, and after how many it saves and, epochs aside, measures."""

    steps_per_epoch: int
    total_steps: int
    checkpoint_steps: int
    eval_steps: int = 0
    """0: never."""

    def ends_epoch(self, step: int) -> bool:
        """Tell whether an epoch ends with this step."""
        return step % self.steps_per_epoch == 0

    def saves(self, step: int) -> bool:
        """Tell whether a checkpoint is due after this step, epochs aside."""
        return step % self.checkpoint_steps == 0

    def measures(self, step: int) -> bool:
        """Tell whether to measure after this step, epochs aside."""
        due = self.eval_steps > 0 and step % self.eval_steps == 0
        return due and not self.ends_epoch(step)


class Reporter(TrainerCallback):
    """Turns the trainer's callbacks into our events.

    An epoch is reported before the checkpoint that lies behind it is written: a crash between the
    two reports it again, and never loses it. `metrics` are the latest of each kind. `logged` names
    what the trainer logs besides the loss, and what we call it.
    """

    def __init__(
        self,
        schedule: Schedule,
        metrics: Metrics,
        method: Method,
        logged: Mapping[str, str],
        *,
        report: Callable[[TrainingEvent], None],
        should_stop: Callable[[], bool],
        evaluate: Callable[[int], Evaluated | None],
        end_epoch: Callable[[int, int], None],
    ) -> None:
        self._schedule = schedule
        self.metrics = metrics
        self._method = method
        self._logged = logged
        self._report = report
        self._should_stop = should_stop
        self._evaluate = evaluate
        self._end_epoch = end_epoch
        self.stopped = False
        self._began = 0.0
        self._seconds = 0.0
        self._tokens = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Measure the held-out examples before the first step."""
        self._tokens = int(state.num_input_tokens_seen)
        if state.global_step == 0:
            self._measure(0)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the clock: what lies between steps is not training."""
        self._began = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Save every N steps, and stop when asked; an epoch's last step is on_epoch_end's."""
        self._seconds = time.perf_counter() - self._began
        if self._should_stop():
            self.stopped = control.should_training_stop = True
        step = state.global_step
        due = self.stopped or self._schedule.saves(step)
        control.should_save = due and not self._schedule.ends_epoch(step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Report an optimizer step."""
        if logs is None or "loss" not in logs:
            return
        loss, accuracy = float(logs["loss"]), logs.get("mean_token_accuracy")
        if not math.isfinite(loss):
            raise non_finite(f"The loss at step {state.global_step}", self._method)
        more = {name: float(logs[key]) for key, name in self._logged.items() if key in logs}
        self.metrics |= {"train_loss": loss, "train_mean_token_accuracy": accuracy, **more}
        tokens = int(state.num_input_tokens_seen)
        self._report(
            StepDone(
                step=state.global_step,
                total_steps=self._schedule.total_steps,
                train_loss=loss,
                train_mean_token_accuracy=accuracy,
                learning_rate=float(logs["learning_rate"]),
                tokens=tokens,
                tokens_per_second=(tokens - self._tokens) / max(self._seconds, 1e-9),
                metrics=more,
            )
        )
        self._tokens = tokens
        if self._schedule.measures(state.global_step):
            self._measure(state.global_step)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Measure, hand the adapter over, then save. Also called when a run stops midway."""
        step = state.global_step
        if self._schedule.ends_epoch(step):
            self._measure(step)
            self._end_epoch(step // self._schedule.steps_per_epoch, step)
            control.should_save = True

    def _measure(self, step: int) -> None:
        measured = self._evaluate(step)
        if measured is None:
            return
        loss, accuracy = measured.valid_loss, measured.valid_mean_token_accuracy
        if loss is not None and not math.isfinite(loss):
            raise non_finite(f"The validation loss at step {step}", self._method)
        self.metrics |= {"valid_loss": loss, "valid_mean_token_accuracy": accuracy}
        self.metrics |= measured.metrics
        self._report(measured)
