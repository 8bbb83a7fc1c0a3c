"""All that a task needs to go on: copied between two rows, written to disk while others train."""

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from service.base.segmented.optimizer import SlotState
from service.base.segmented.slots import Held, write_files
from service.training.batch.faults import non_finite
from service.training.early_stopping import Watch

WEIGHTS_FILE = "adapter_model.safetensors"
MOMENTS_FILE = "optimizer.safetensors"
PROGRESS_FILE = "progress.json"
BEST_FILE = "best.safetensors"
"""There if and only if the progress tells of a best evaluation."""
REQUIRED = (WEIGHTS_FILE, MOMENTS_FILE, PROGRESS_FILE)
"""Resuming without any one of them would silently be another training."""

Metrics = dict[str, float | None]


class Progress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a task is. Schedule, data position and random streams are functions of `step`."""

    step: int
    """Optimizer steps taken."""
    tokens: int
    metrics: Metrics
    watch: Watch | None = None
    """With early stopping, from the first evaluation on."""
    best_metrics: Metrics = {}
    """Those of the best evaluation."""


class Made(msgspec.Struct, frozen=True):
    """An adapter, as it was after a step."""

    step: int
    metrics: Metrics
    weights: Mapping[str, Tensor]


class State(msgspec.Struct, frozen=True):
    """A task between two optimizer steps; the tensors are copies."""

    progress: Progress
    weights: dict[str, Tensor]
    optimizer: SlotState
    best: dict[str, Tensor] | None = None

    @property
    def made(self) -> Made:
        """What the task would end with now: its best evaluated weights, or without any its last."""
        if self.best is None or self.progress.watch is None:
            return Made(self.progress.step, self.progress.metrics, self.weights)
        return Made(self.progress.watch.best_step, self.progress.best_metrics, self.best)


def write_adapter(held: Held, weights: Mapping[str, Tensor], folder: Path, base_name: str) -> Path:
    """Write PEFT's two files. Raises TrainingError if a weight is not finite."""
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise non_finite("A weight of the adapter")
    write_files(held, weights, folder, base_name)
    return folder


def write(state: State, folder: Path) -> None:
    """Write a state, bit by bit as it is in memory."""
    save_file(state.weights, folder / WEIGHTS_FILE)
    if state.best is not None:
        save_file(state.best, folder / BEST_FILE)
    moments = {f"exp_avg.{key}": tensor for key, tensor in state.optimizer.exp_avg.items()}
    moments |= {f"exp_avg_sq.{key}": tensor for key, tensor in state.optimizer.exp_avg_sq.items()}
    moments["steps"] = torch.tensor(state.optimizer.steps)
    save_file(moments, folder / MOMENTS_FILE)
    (folder / PROGRESS_FILE).write_bytes(msgspec.json.encode(state.progress))


def read(folder: Path) -> State:
    """Read a whole checkpoint; what is missing in it is an error."""
    moments = load_file(folder / MOMENTS_FILE)
    optimizer = SlotState(
        steps=int(moments["steps"]),
        exp_avg=_under("exp_avg.", moments),
        exp_avg_sq=_under("exp_avg_sq.", moments),
    )
    progress = msgspec.json.decode((folder / PROGRESS_FILE).read_bytes(), type=Progress)
    best = None if progress.watch is None else load_file(folder / BEST_FILE)
    return State(progress, load_file(folder / WEIGHTS_FILE), optimizer, best)


def copied(tensors: Mapping[str, Tensor], pause: Callable[[], None]) -> dict[str, Tensor]:
    """Copy views of a slot where they lie: from there to the disk is another thread's way.

    There are hundreds of them: others may have a turn before each.
    """
    copies = {}
    for key, view in tensors.items():
        pause()
        copies[key] = view.detach().clone(memory_format=torch.contiguous_format)
    return copies


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
