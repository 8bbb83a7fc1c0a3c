"""Supervised fine-tuning by TRL's SFTTrainer: what the batch's own trainer is held to."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from service.base.description import describe
from service.base.loading import load_base
from service.rendering.renderer import Renderer
from service.settings import BUNDLED_BASE
from service.training.batch.order import Order
from service.training.rows import render
from service.training.spec import warmup_steps
from service.training.trainer import TrainingTask


class Taught(msgspec.Struct, frozen=True):
    """What TRL logged."""

    losses: dict[int, float]
    """By step."""
    accuracies: list[float]
    tokens: list[int]
    """Seen up to each step."""
    measured: dict[int, float]
    """The loss over the held-out examples, by step."""


def teach(task: TrainingTask, first: Path) -> Taught:
    """Train the adapter in `first` on a bundled base of its own, in the batch's order."""
    base = describe(str(BUNDLED_BASE))
    rows, spec = render(Renderer(base), task), task.spec
    train, held_out = (
        Dataset.from_list([msgspec.structs.asdict(row) for row in some])
        for some in (rows.train, rows.validation)
    )
    order = Order(len(train), spec.batch_size, spec.n_epochs, spec.seed)
    model = load_base(base, "none", threads=1).model
    trainer = _InOrder(
        order,
        model=PeftModel.from_pretrained(model, first, is_trainable=True),
        args=_arguments(task, order, len(held_out)),
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=PreTrainedTokenizerFast(
            tokenizer_file=str(BUNDLED_BASE / "tokenizer.json")
        ),
        # What fills shorter rows is masked out: any token will do.
        data_collator=DataCollatorForLanguageModeling(pad_token_id=0),
    )
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    measured = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    return Taught(
        losses={entry["step"]: entry["loss"] for entry in steps},
        accuracies=[entry["mean_token_accuracy"] for entry in steps],
        tokens=[entry["num_tokens"] for entry in steps],
        measured={entry["step"]: entry["eval_loss"] for entry in measured},
    )


class _InOrder(SFTTrainer):
    def __init__(self, order: Order, **given: Any) -> None:
        self._order = order
        super().__init__(**given)

    def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler[int]:
        return _Sampler(self._order)

    def _send_telemetry(self) -> None:
        """Send nothing: TRL tells its makers about every run."""


class _Sampler(torch.utils.data.Sampler[int]):
    """Goes once through the examples each time it is asked."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._step = 0

    def __len__(self) -> int:
        return self._order.examples

    def __iter__(self) -> Iterator[int]:
        for _ in range(self._order.steps_per_epoch):
            yield from self._order.batch(self._step)
            self._step += 1


def _arguments(task: TrainingTask, order: Order, held_out: int) -> SFTConfig:
    spec = task.spec
    return SFTConfig(
        output_dir=str(task.workdir),
        per_device_train_batch_size=spec.batch_size,
        # TRL gives the mean of its batches' means.
        per_device_eval_batch_size=held_out,
        num_train_epochs=spec.n_epochs,
        learning_rate=spec.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=warmup_steps(spec.warmup_ratio, order.total_steps),
        max_grad_norm=spec.gradient_clip,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        eval_strategy="epoch",
        eval_on_start=True,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        dataloader_pin_memory=False,
    )
