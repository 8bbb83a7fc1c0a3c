"""Everything about a task that can be known before it has a slot; made in any thread."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from torch import Tensor

from service.base.loading import LoadedBase
from service.base.lora_files import LoraFiles, read_lora
from service.base.lora_rules import BadLora
from service.base.probes import Probes
from service.rendering.renderer import Renderer
from service.training import probing
from service.training.batch import states
from service.training.batch.examples import Encoded, Sweep, encode
from service.training.batch.faults import bad_parent, check_measurable
from service.training.batch.order import Order, order_of
from service.training.batch.schedule import Schedule, schedule
from service.training.batch.states import Progress, State
from service.training.checkpoints import Checkpoints
from service.training.rows import Rows, render
from service.training.spec import LoraSpec
from service.training.trainer import Started, TrainingTask

_FORMAT = "batch 2"
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
    parent: Mapping[str, Tensor] | None
    """The weights to begin with, by PEFT's keys, unless it is resumed."""
    probes: Probes
    """What its adapters are examined by, not yet scored."""

    @property
    def longest(self) -> int:
        """Tokens of the longest example to learn from."""
        return max(one.length for one in self.train)

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
            probes=self.probes,
        )

    def sweep(self, step: int) -> Sweep:
        """Give an optimizer step's examples, counted from 0."""
        examples = [self.train[index] for index in self.order.batch(step)]
        return Sweep(examples, self.order.dropout_seeds(step))

    def measuring(self) -> Sweep:
        """Give the held-out examples."""
        return Sweep(self.validation, None)


def plan(
    loaded: LoadedBase,
    renderer: Renderer,
    task: TrainingTask,
    shapes: Mapping[str, tuple[int, int]],
) -> Plan:
    """Render a task and look for what it goes on from: its newest checkpoint, or its parent.

    `shapes` are the (in, out) features of the base's linear layers. Raises TrainingError.
    """
    spec, rows = task.spec, render(renderer, task)
    check_measurable(spec, len(rows.validation))
    order = order_of(spec, len(rows.train))
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
        parent=None if newest or task.parent is None else _parent(task.parent, spec.lora, shapes),
        probes=probing.of_rows(rows.train, rows.validation),
    )


def _parent(
    folder: Path, shape: LoraSpec, shapes: Mapping[str, tuple[int, int]]
) -> Mapping[str, Tensor]:
    try:
        files = read_lora(folder, shapes)
    except BadLora as fault:
        raise bad_parent(str(fault)) from None
    if not _alike(files, shape):
        raise bad_parent("its rank, alpha, target modules or rslora differ from the task's")
    return files.tensors


def _alike(files: LoraFiles, shape: LoraSpec) -> bool:
    found = (files.rank, files.alpha, files.rslora, set(files.targets))
    return found == (shape.rank, shape.alpha, shape.rslora, set(shape.target_modules))


def _fingerprint(loaded: LoadedBase, task: TrainingTask, rows: Rows) -> str:
    """Tell a task by all that decides its result."""
    base = f"{_FORMAT} {loaded.description.digest} {loaded.quantization}"
    whole = hashlib.sha256(base.encode())
    for part in [task.spec, *rows.train, *rows.validation]:
        whole.update(msgspec.json.encode(part))
    return whole.hexdigest()
