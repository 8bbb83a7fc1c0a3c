"""Supervised fine-tuning of one LoRA at a time, on TRL's SFTTrainer and a twin of the base."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import torch
from datasets import Dataset
from peft import prepare_model_for_kbit_training
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from service.training import resumable
from service.training.reporting import Schedule
from service.training.resumable import Resumable, no_tokenizer
from service.training.rows import Rows, micro_batch, render
from service.training.solo import Counts, Run, SoloTrainer
from service.training.spec import TrainingSpec
from service.training.trainer import Evaluated, TrainingError, TrainingTask

TOKENS_AT_ONCE = 16384
"""In one forward pass, padding included; larger batches accumulate."""

Collate = Callable[[list[dict[str, Any]]], dict[str, Any]]


class SftTrainer(SoloTrainer):
    """Implements `Trainer`."""

    def prepare(self, task: TrainingTask, model: Any) -> Run:
        """See SoloTrainer.prepare."""
        _refuse_early_stopping(task.spec)
        spec, rows = task.spec, render(self.renderer, task)
        if self.loaded.quantization == "nf4":
            prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        steps = math.ceil(len(rows.train) / spec.batch_size)
        schedule = Schedule(steps, steps * spec.n_epochs, self.checkpoint_steps)
        # What fills shorter rows is masked out: any token will do.
        collate = DataCollatorForLanguageModeling(pad_token_id=0)
        trainer = ResumableSft(
            self.loaded.description.name,
            spec,
            model=model,
            args=self._arguments(task, rows, schedule.total_steps),
            train_dataset=Dataset.from_list([msgspec.structs.asdict(row) for row in rows.train]),
            processing_class=no_tokenizer(),
            data_collator=collate,
        )
        return Run(
            task=task,
            trainer=trainer,
            schedule=schedule,
            checkpoints=self.checkpoints(task, [*rows.train, *rows.validation]),
            counts=Counts(len(rows.train), len(rows.validation), rows.truncated, rows.dropped),
            evaluate=lambda step: evaluate(trainer, rows, collate, step),
        )

    def _arguments(self, task: TrainingTask, rows: Rows, total_steps: int) -> SFTConfig:
        micro = micro_batch(task.spec.batch_size, rows.longest, TOKENS_AT_ONCE)
        return arguments(
            task.spec,
            sequences=task.spec.batch_size,
            micro_batch=micro,
            total_steps=total_steps,
            workdir=task.workdir,
            device=self.loaded.device,
        )


def _refuse_early_stopping(spec: TrainingSpec) -> None:
    for field in ("early_stopping", "eval_steps"):
        if getattr(spec, field) is not None:
            message = f"This trainer cannot do {field}"
            raise TrainingError(message, "unsupported_parameter", f"method.supervised.{field}")


class ResumableSft(Resumable, SFTTrainer):
    """TRL's trainer on our checkpoints."""

    def __init__(self, base_name: str, spec: TrainingSpec, **given: Any) -> None:
        super().__init__(base_name, spec, **given)
        # Its special tokens would be written into the model's config.
        self.processing_class = None


def arguments(spec: TrainingSpec, **given: Any) -> SFTConfig:
    """Spell a spec as TRL does."""
    shared = resumable.arguments(spec, **given)
    return SFTConfig(**shared, max_length=None, dataset_kwargs={"skip_prepare_dataset": True})


def evaluate(trainer: Resumable, rows: Rows, collate: Collate, step: int) -> Evaluated | None:
    """Measure loss and token accuracy over the held-out tokens that carry loss.

    Weighted by tokens, unlike the mean of batch means; draws no random numbers, so that a run
    with evaluations equals one without.
    """
    if not rows.validation:
        return None
    model = trainer.model
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64)
    with torch.no_grad(), trainer.accelerator.autocast():
        for batch in _batches(rows, collate):
            given = {name: tensor.to(trainer.args.device) for name, tensor in batch.items()}
            out = model(**given, fused_lm_head=True)
            found = (-out.log_probs.sum(), out.is_top1.sum(), out.label_mask.sum())
            sums += torch.stack([value.double().cpu() for value in found])
    model.train()
    nll, right, tokens = sums.tolist()
    return Evaluated(step, nll / tokens, right / tokens)


def _batches(rows: Rows, collate: Collate) -> Iterator[dict[str, Any]]:
    held_out = rows.validation
    size = max(1, TOKENS_AT_ONCE // rows.longest)
    for start in range(0, len(held_out), size):
        yield collate([msgspec.structs.asdict(row) for row in held_out[start:][:size]])
