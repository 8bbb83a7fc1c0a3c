"""What a tenant is told of a training run: messages in the words OpenAI's users know. Pure."""

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from service.training.trainer import (
    BestTaken,
    CheckpointDue,
    EpochDone,
    Evaluated,
    Started,
    StepDone,
    StoppedEarly,
    TrainingEvent,
)

Level = Literal["info", "warn"]


class Told(msgspec.Struct, frozen=True):
    """One event of the job; with `data` it is a metrics event."""

    message: str
    level: Level = "info"
    data: dict[str, Any] | None = None


class Story:
    """Tells each thing once, also when a resumed run goes through the same steps again."""

    def __init__(self, before: Iterable[tuple[str, dict[str, Any] | None]] = ()) -> None:
        """Remember what was told `before`, as messages with their data."""
        self._messages: set[str]
        self._total_steps = 0
        self.recall(before)

    def recall(self, before: Iterable[tuple[str, dict[str, Any] | None]]) -> None:
        """Know only what was told `before`: of what was said since, nobody knows if it arrived."""
        self._messages = set()
        self._step = self._evaluated = -1
        for message, data in before:
            self._remember(Told(message, data=data))

    def tell(self, event: TrainingEvent) -> list[Told]:
        """Turn an event into what is new to the tenant."""
        return [told for told in self._say(event) if self._remember(told)]

    def once(self, message: str, level: Level = "info") -> list[Told]:
        """Say something, unless it was said before."""
        told = Told(message, level)
        return [told] if self._remember(told) else []

    def _say(self, event: TrainingEvent) -> list[Told]:
        match event:
            case Started():
                self._total_steps = event.total_steps
                return _warnings(event)
            case StepDone():
                return [_step(event)]
            case Evaluated():
                return [_evaluated(event, self._total_steps)]
            case StoppedEarly():
                return [_stopped_early(event)]
            case BestTaken():
                return [_best_taken(event)]
            case EpochDone() | CheckpointDue():
                return []

    def _remember(self, told: Told) -> bool:
        if told.data is None:
            new = told.message not in self._messages
            self._messages.add(told.message)
            return new
        step = int(told.data["step"])
        if "train_loss" in told.data:
            new, self._step = step > self._step, max(step, self._step)
        else:
            new, self._evaluated = step > self._evaluated, max(step, self._evaluated)
        return new


def _step(event: StepDone) -> Told:
    message = f"Step {event.step}/{event.total_steps}: training loss={event.train_loss:.2f}"
    data = {
        "step": event.step,
        "total_steps": event.total_steps,
        "train_loss": event.train_loss,
        "train_mean_token_accuracy": event.train_mean_token_accuracy,
        "learning_rate": event.learning_rate,
        "tokens_per_second": event.tokens_per_second,
        "trained_tokens": event.tokens,
        **event.metrics,
    }
    return Told(message, data=data)


def _evaluated(event: Evaluated, total_steps: int) -> Told:
    measured = {"loss": event.valid_loss} | event.metrics
    told = ", ".join(f"{name}={value:.2f}" for name, value in measured.items() if value is not None)
    message = f"Step {event.step}/{total_steps}: validation {told}"
    data = {
        "step": event.step,
        "total_steps": total_steps,
        "valid_loss": event.valid_loss,
        "valid_mean_token_accuracy": event.valid_mean_token_accuracy,
        **event.metrics,
    }
    return Told(message, data=data)


def _stopped_early(event: StoppedEarly) -> Told:
    count = event.evaluations
    last = "the last evaluation" if count == 1 else f"{count} evaluations"
    reason = f"the validation loss did not improve in {last}"
    return Told(f"Stopped early at step {event.step}/{event.total_steps}: {reason}")


def _best_taken(event: BestTaken) -> Told:
    loss = f"validation loss={event.valid_loss:.2f}"
    return Told(f"The weights of step {event.step} are taken, which were the best: {loss}")


def _warnings(event: Started) -> list[Told]:
    said = []
    if event.truncated_examples:
        cut = _examples(event.truncated_examples, "is", "are")
        said.append(Told(f"{cut} longer than max_length and were cut off at the end", "warn"))
    if event.dropped_examples:
        out = _examples(event.dropped_examples, "was", "were")
        said.append(Told(f"{out} left out: no token to learn lies within max_length", "warn"))
    return said


def _examples(count: int, one: str, many: str) -> str:
    return f"1 example {one}" if count == 1 else f"{count} examples {many}"
