"""Everything about a task that can be known before it has a slot; made in any thread."""

import hashlib
from collections.abc import Sequence

import msgspec

from service.base.loading import LoadedBase
from service.rendering.renderer import Renderer
from service.training.batch import states
from service.training.batch.examples import Encoded, Sweep, encode
from service.training.batch.order import Order
from service.training.batch.schedule import Schedule, schedule
from service.training.batch.states import Progress, State
from service.training.checkpoints import Checkpoints
from service.training.rows import Rows, render
from service.training.trainer import Started, TrainingTask

_FORMAT = "batch 1"
"""Change it when a checkpoint of before must not be resumed from."""


class Plan(msgspec.Struct, frozen=True):
    """A task, ready to be trained from where it was left."""

    task: TrainingTask
    train: Sequence[Encoded]
    validation: Sequence[Encoded]
    truncated: int
    dropped: int
    order: Order
    schedule: Schedule
    checkpoints: Checkpoints
    resumed: State | None

    @property
    def progress(self) -> Progress:
        """Where to begin."""
        return Progress(0, 0, {}) if self.resumed is None else self.resumed.progress

    @property
    def started(self) -> Started:
        """What is told first."""
        return Started(
            step=self.progress.step,
            total_steps=self.order.total_steps,
            train_examples=len(self.train),
            validation_examples=len(self.validation),
            truncated_examples=self.truncated,
            dropped_examples=self.dropped,
        )

    def sweep(self, step: int) -> Sweep:
        """Give an optimizer step's examples, counted from 0."""
        examples = [self.train[index] for index in self.order.batch(step)]
        return Sweep(examples, self.order.dropout_seeds(step))

    def measuring(self) -> Sweep:
        """Give the held-out examples."""
        return Sweep(self.validation, None)


def plan(loaded: LoadedBase, renderer: Renderer, task: TrainingTask) -> Plan:
    """Render a task and look for its newest checkpoint. Raises TrainingError."""
    spec, rows = task.spec, render(renderer, task)
    order = Order(len(rows.train), spec.batch_size, spec.n_epochs, spec.seed)
    root, fingerprint = task.workdir / "checkpoints", _fingerprint(loaded, task, rows)
    checkpoints = Checkpoints(root, fingerprint, states.REQUIRED)
    newest = checkpoints.newest()
    return Plan(
        task=task,
        train=[encode(row) for row in rows.train],
        validation=[encode(row) for row in rows.validation],
        truncated=rows.truncated,
        dropped=rows.dropped,
        order=order,
        schedule=schedule(spec, order.total_steps),
        checkpoints=checkpoints,
        resumed=None if newest is None else states.read(newest),
    )


def _fingerprint(loaded: LoadedBase, task: TrainingTask, rows: Rows) -> str:
    """Tell a task by all that decides its result."""
    base = f"{_FORMAT} {loaded.description.digest} {loaded.quantization}"
    whole = hashlib.sha256(base.encode())
    for part in [task.spec, *rows.train, *rows.validation]:
        whole.update(msgspec.json.encode(part))
    return whole.hexdigest()
