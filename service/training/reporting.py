"""What a run tells while it goes: steps, evaluations, epochs; and when it must stop or save."""

import math
import time
from collections.abc import Callable
from typing import Any

import msgspec
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from service.training.trainer import Evaluated, StepDone, TrainingError, TrainingEvent


class Progress(msgspec.Struct):
    """What a resumed run must know besides the trainer's own state; kept in each checkpoint."""

    metrics: dict[str, float | None] = {}


class Reporter(TrainerCallback):  # type: ignore[misc]
    """Turns the trainer's callbacks into our events.

    An epoch is reported before the checkpoint that lies behind it is written: a crash between the
    two reports it again, and never loses it.
    """

    def __init__(
        self,
        *,
        report: Callable[[TrainingEvent], None],
        should_stop: Callable[[], bool],
        evaluate: Callable[[], tuple[float, float] | None],
        end_epoch: Callable[[int, int, dict[str, float | None]], None],
        steps_per_epoch: int,
        checkpoint_steps: int,
        progress: Progress,
    ) -> None:
        self._report = report
        self._should_stop = should_stop
        self._evaluate = evaluate
        self._end_epoch = end_epoch
        self._steps_per_epoch = steps_per_epoch
        self._checkpoint_steps = checkpoint_steps
        self.progress = progress
        self.stopped = False
        self._began = time.perf_counter()
        self._tokens = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Measure the held-out examples before the first step."""
        if state.global_step == 0:
            self._measure(0)
        self._tokens = int(state.num_input_tokens_seen)
        self._began = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Save every N steps, and stop when asked; an epoch's last step is on_epoch_end's."""
        if self._should_stop():
            self.stopped = control.should_training_stop = True
        due = state.global_step % self._checkpoint_steps == 0
        control.should_save = (due or self.stopped) and not self._at_epoch_end(state)

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
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            message = f"The loss is not finite at step {state.global_step}; try a lower rate."
            raise TrainingError(message, "non_finite_loss", "method.supervised.learning_rate")
        accuracy = logs.get("mean_token_accuracy")
        self.progress.metrics |= {"train_loss": loss, "train_mean_token_accuracy": accuracy}
        self._report(
            StepDone(
                step=state.global_step,
                total_steps=state.max_steps,
                train_loss=loss,
                train_mean_token_accuracy=accuracy,
                learning_rate=float(logs["learning_rate"]),
                tokens=int(state.num_input_tokens_seen),
                tokens_per_second=self._rate(int(state.num_input_tokens_seen)),
            )
        )

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Measure, hand the adapter over, then save. Also called when a run stops midway."""
        if not self._at_epoch_end(state):
            return
        self._measure(state.global_step)
        epoch = state.global_step // self._steps_per_epoch
        self._end_epoch(epoch, state.global_step, dict(self.progress.metrics))
        control.should_save = True
        self._began = time.perf_counter()

    def _at_epoch_end(self, state: TrainerState) -> bool:
        return bool(state.global_step % self._steps_per_epoch == 0)

    def _measure(self, step: int) -> None:
        measured = self._evaluate()
        if measured is not None:
            loss, accuracy = measured
            self.progress.metrics |= {"valid_loss": loss, "valid_mean_token_accuracy": accuracy}
            self._report(Evaluated(step, loss, accuracy))

    def _rate(self, tokens: int) -> float:
        """Tokens a second since the last report, evaluations not counted."""
        now = time.perf_counter()
        rate = (tokens - self._tokens) / max(now - self._began, 1e-9)
        self._began, self._tokens = now, tokens
        return rate
