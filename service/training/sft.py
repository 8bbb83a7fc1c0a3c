"""Supervised fine-tuning of one LoRA at a time, on TRL's SFTTrainer and the resident base."""

import hashlib
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
from peft import prepare_model_for_kbit_training
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from service.base.loading import LoadedBase
from service.rendering.renderer import Renderer
from service.training import lora
from service.training.checkpoints import Checkpoints
from service.training.reporting import Reporter, Schedule
from service.training.resumable import REQUIRED, ResumableTrainer, arguments
from service.training.rows import Rows, micro_batch, render
from service.training.spec import TrainingSpec
from service.training.trainer import (
    CheckpointDue,
    EpochDone,
    Started,
    TrainingError,
    TrainingEvent,
    TrainingOutcome,
    TrainingTask,
)

TOKENS_AT_ONCE = 16384
"""In one forward pass, padding included; larger batches accumulate."""


class SftTrainer:
    """Implements `Trainer`. The base must be for training alone: nothing else may run on it."""

    def __init__(self, loaded: LoadedBase, renderer: Renderer, checkpoint_steps: int) -> None:
        self._loaded = loaded
        self._renderer = renderer
        self._checkpoint_steps = checkpoint_steps
        if loaded.quantization == "nf4":
            prepare_model_for_kbit_training(loaded.model, use_gradient_checkpointing=False)

    def train(
        self,
        task: TrainingTask,
        report: Callable[[TrainingEvent], None],
        should_stop: Callable[[], bool],
    ) -> TrainingOutcome:
        """See Trainer.train."""
        _refuse_early_stopping(task.spec)
        rows = render(self._renderer, task)
        lora.check_targets(self._loaded.model, task.spec.lora)
        with lora.lent(self._loaded.model):
            return _Run(self._loaded, task, rows, self._checkpoint_steps).go(report, should_stop)


def _refuse_early_stopping(spec: TrainingSpec) -> None:
    for field in ("early_stopping", "eval_steps"):
        if getattr(spec, field) is not None:
            message = f"This trainer cannot do {field}"
            raise TrainingError(message, "unsupported_parameter", f"method.supervised.{field}")


class _Run:
    """One call of `train`: from its newest checkpoint, or from the start."""

    def __init__(
        self, loaded: LoadedBase, task: TrainingTask, rows: Rows, checkpoint_steps: int
    ) -> None:
        spec = task.spec
        self._task = task
        self._device = loaded.device
        self._rows = rows
        steps = math.ceil(len(rows.train) / spec.batch_size)
        self._schedule = Schedule(steps, steps * spec.n_epochs, checkpoint_steps)
        self._checkpoints = Checkpoints(
            task.workdir / "checkpoints", _fingerprint(loaded, task, rows), REQUIRED
        )
        # What fills shorter rows is masked out: any token will do.
        self._collate = DataCollatorForLanguageModeling(pad_token_id=0)
        micro = micro_batch(spec.batch_size, rows.longest, TOKENS_AT_ONCE)
        self._trainer = ResumableTrainer(
            loaded.model,
            loaded.description.name,
            spec,
            arguments(spec, micro, self._schedule.total_steps, task.workdir, loaded.device),
            rows.train,
            self._collate,
        )

    def go(
        self, report: Callable[[TrainingEvent], None], should_stop: Callable[[], bool]
    ) -> TrainingOutcome:
        """Train to the end, or to the next step once asked to stop."""
        trainer = self._trainer
        reporter = Reporter(
            self._schedule,
            trainer.metrics,
            report=report,
            should_stop=should_stop,
            evaluate=self._evaluate,
            end_epoch=lambda epoch, step: report(
                EpochDone(epoch, step, self._write("epoch"), dict(trainer.metrics))
            ),
        )
        trainer.add_callback(reporter)
        report(self._started())
        if self._task.parent is not None:
            lora.read(trainer.model, self._task.parent)
        trainer.run(self._checkpoints, lambda step: report(CheckpointDue(step)))
        return TrainingOutcome(
            adapter=self._write("final"),
            steps=trainer.state.global_step,
            trained_tokens=int(trainer.state.num_input_tokens_seen),
            stopped=trainer.state.global_step < self._schedule.total_steps,
            metrics=dict(trainer.metrics),
        )

    def _started(self) -> Started:
        return Started(
            step=self._checkpoints.newest_step(),
            total_steps=self._schedule.total_steps,
            train_examples=len(self._rows.train),
            validation_examples=len(self._rows.validation),
            truncated_examples=self._rows.truncated,
            dropped_examples=self._rows.dropped,
        )

    def _write(self, name: str) -> Path:
        folder = self._task.workdir / name
        shutil.rmtree(folder, ignore_errors=True)
        return self._trainer.write(folder)

    def _evaluate(self) -> tuple[float, float] | None:
        """Measure loss and token accuracy over the held-out tokens that carry loss.

        Weighted by tokens, unlike the mean of batch means; draws no random numbers, so that a run
        with evaluations equals one without.
        """
        if not self._rows.validation:
            return None
        model = self._trainer.model
        model.eval()
        sums = torch.zeros(3, dtype=torch.float64)
        with torch.no_grad(), self._trainer.accelerator.autocast():
            for batch in self._batches():
                out = model(**batch, fused_lm_head=True)
                found = (-out.log_probs.sum(), out.is_top1.sum(), out.label_mask.sum())
                sums += torch.stack([value.double().cpu() for value in found])
        model.train()
        nll, right, tokens = sums.tolist()
        return nll / tokens, right / tokens

    def _batches(self) -> Iterator[dict[str, Any]]:
        rows = self._rows.validation
        size = max(1, TOKENS_AT_ONCE // self._rows.longest)
        for start in range(0, len(rows), size):
            batch = self._collate([msgspec.structs.asdict(row) for row in rows[start:][:size]])
            yield {name: tensor.to(self._device) for name, tensor in batch.items()}


def _fingerprint(loaded: LoadedBase, task: TrainingTask, rows: Rows) -> str:
    """Tell a task by all that decides its result."""
    whole = hashlib.sha256(f"{loaded.description.digest} {loaded.quantization}".encode())
    for part in [task.spec, *rows.train, *rows.validation]:
        whole.update(msgspec.json.encode(part))
    return whole.hexdigest()
