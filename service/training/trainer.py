"""The seam of training: `Trainer` turns examples into a PEFT adapter folder, resumably.

The next implementation trains many jobs in one batch; what is promised here stays.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from service.base.probes import Probes
from service.rendering.examples import Example
from service.training.spec import TrainingSpec


class TrainingTask(msgspec.Struct, frozen=True):
    """One adapter to make.

    `workdir` belongs to this task alone and outlives the process: checkpoints are kept there, and
    a second `train` with the same task resumes from the newest whole one.
    """

    id: str
    spec: TrainingSpec
    train: Sequence[Example]
    validation: Sequence[Example]
    workdir: Path
    tenant: str = ""
    """Tenants share a batch by their weights; without one the task is a tenant of its own."""
    weight: float = 1.0
    """The tenant's, above 0."""
    priority: int = 0
    """Among the tenant's tasks: 50 more is twice the share."""
    parent: Path | None = None
    """PEFT's files to go on from: of the spec's `base_adapter`, in the spec's shape."""

    def __post_init__(self) -> None:
        # Otherwise it would silently be trained from the base, or be resumed as another.
        if (self.parent is None) != (self.spec.base_adapter is None):
            raise ValueError("a parent goes with the spec's base_adapter")


class Started(msgspec.Struct, frozen=True, tag=True):
    """Training begins, at `step` of `total_steps` (above 0: resumed from a checkpoint)."""

    step: int
    total_steps: int
    train_examples: int
    validation_examples: int
    truncated_examples: int
    dropped_examples: int
    """Left out because no token that carries loss is within `max_length`."""
    probes: Probes | None = None
    """What its adapters will be examined by, before anything scored it."""


class StepDone(msgspec.Struct, frozen=True, tag=True):
    """One optimizer step. Accuracy is over the tokens that carry loss; `tokens` counts all."""

    step: int
    total_steps: int
    train_loss: float
    train_mean_token_accuracy: float | None
    learning_rate: float
    tokens: int
    """Trained so far in this task, epochs counted, padding not."""
    tokens_per_second: float
    metrics: dict[str, float] = {}
    """What else the method measures: `rewards/margins`, `train_reward_mean`."""


class Evaluated(msgspec.Struct, frozen=True, tag=True):
    """The held-out examples were measured; step 0 is before training: the base, or the parent."""

    step: int
    valid_loss: float | None
    """None for `reinforcement`, which has rewards instead."""
    valid_mean_token_accuracy: float | None
    metrics: dict[str, float] = {}


class EpochDone(msgspec.Struct, frozen=True, tag=True):
    """An epoch ended: `adapter` holds PEFT's files, and is the caller's until this call returns.

    After a crash in between it may be reported a second time, equal.
    """

    epoch: int
    step: int
    adapter: Path
    metrics: dict[str, float | None]
    probes: Probes
    """Rows of the task, and what the trainer makes of them with this adapter and without."""


class CheckpointDue(msgspec.Struct, frozen=True, tag=True):
    """A resumable state is about to be kept: what came before `step` is not reported again.

    Whoever must lose no event has kept all earlier ones when the call returns.
    """

    step: int


class StoppedEarly(msgspec.Struct, frozen=True, tag=True):
    """Training ends after `step`: the loss did not improve in the last `evaluations`.

    Told when all else is kept, and by whoever resumes from there once more.
    """

    step: int
    total_steps: int
    evaluations: int


class BestTaken(msgspec.Struct, frozen=True, tag=True):
    """The result has the weights after `step`, though later ones were made. Told like the above."""

    step: int
    valid_loss: float


TrainingEvent = (
    Started | StepDone | Evaluated | EpochDone | CheckpointDue | StoppedEarly | BestTaken
)


class TrainingOutcome(msgspec.Struct, frozen=True):
    """How it ended. When stopped, a checkpoint was written and `adapter` must not be used.

    With early stopping the adapter is the best that was evaluated, stopped early or not.
    """

    adapter: Path
    steps: int
    """After which the adapter and the metrics are; `trained_tokens` are those of all steps."""
    trained_tokens: int
    metrics: dict[str, float | None]
    probes: Probes | None
    """As an epoch's; None when stopped."""

    @property
    def stopped(self) -> bool:
        """Whether it was asked to stop before its end."""
        return self.probes is None


class TrainingError(Exception):
    """The task itself cannot be trained (data or spec); trying again gives the same answer."""

    def __init__(self, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param


class Trainer(Protocol):
    """Makes adapters on one resident base. Not thread-safe: one task at a time."""

    def train(
        self,
        task: TrainingTask,
        report: Callable[[TrainingEvent], None],
        should_stop: Callable[[], bool],
    ) -> TrainingOutcome:
        """Train the task to its end, or to its next step once `should_stop` says so.

        Same task, same result, interrupted or not. Raises TrainingError for faults of the task,
        and whatever `report` raises; anything else is ours and may be tried again.
        """
        ...
