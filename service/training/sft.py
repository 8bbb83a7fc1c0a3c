"""Supervised fine-tuning of one LoRA at a time, on TRL's SFTTrainer and the resident base."""

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
from datasets import Dataset
from peft import prepare_model_for_kbit_training
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PrinterCallback
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from service.base.loading import LoadedBase
from service.rendering.renderer import Renderer
from service.training import checkpoints, lora
from service.training.reporting import Progress, Reporter
from service.training.rows import Rows, render
from service.training.spec import TrainingSpec
from service.training.trainer import (
    EpochDone,
    Started,
    TrainingError,
    TrainingEvent,
    TrainingOutcome,
    TrainingTask,
)

MICRO_BATCH = 8
"""Examples in one forward pass; larger batches accumulate."""
PROGRESS = "progress.json"


class SftTrainer:
    """Implements `Trainer`. The base must be for training alone: nothing else may run on it."""

    def __init__(self, loaded: LoadedBase, renderer: Renderer, checkpoint_steps: int) -> None:
        self._loaded = loaded
        self._renderer = renderer
        self._checkpoint_steps = checkpoint_steps
        self._tokenizer = AutoTokenizer.from_pretrained(
            loaded.description.path, local_files_only=True, trust_remote_code=False
        )
        if loaded.quantization == "nf4":
            prepare_model_for_kbit_training(
                loaded.model, use_gradient_checkpointing=loaded.device == "cuda"
            )

    def train(
        self,
        task: TrainingTask,
        report: Callable[[TrainingEvent], None],
        should_stop: Callable[[], bool],
    ) -> TrainingOutcome:
        """See Trainer.train."""
        train = render(self._renderer, task.train, task.spec.max_length)
        validation = render(self._renderer, task.validation, task.spec.max_length)
        if not len(train):
            message = "No example has a token to learn within max_length."
            raise TrainingError(message, "no_trainable_tokens", "training_file")
        with lora.lent(self._loaded.model):
            run = _Run(self._loaded, self._tokenizer, task, train, validation)
            return run.go(self._checkpoint_steps, report, should_stop)


class _Run:
    """One call of `train`: from its newest checkpoint, or from the start."""

    def __init__(
        self,
        loaded: LoadedBase,
        tokenizer: PreTrainedTokenizerBase,
        task: TrainingTask,
        train: Rows,
        validation: Rows,
    ) -> None:
        self.task = task
        self.loaded = loaded
        self.rows = train
        self.validation = validation
        self.checkpoints = task.workdir / "checkpoints"
        self.steps_per_epoch = math.ceil(len(train) / task.spec.batch_size)
        self.total_steps = self.steps_per_epoch * task.spec.n_epochs
        self.collator = DataCollatorForLanguageModeling(pad_token_id=_pad_token(tokenizer))
        self.trainer = _ResumableTrainer(
            checkpoints=self.checkpoints,
            model=loaded.model,
            args=_arguments(task, self.total_steps, loaded.device),
            train_dataset=Dataset.from_dict({"input_ids": train.input_ids, "labels": train.labels}),
            processing_class=tokenizer,
            peft_config=lora.peft_config(task.spec.lora),
            data_collator=self.collator,
        )
        self.trainer.remove_callback(PrinterCallback)
        lora.keep_fp32(self.trainer.model)

    def go(
        self,
        checkpoint_steps: int,
        report: Callable[[TrainingEvent], None],
        should_stop: Callable[[], bool],
    ) -> TrainingOutcome:
        """Train to the end, or to the next step once asked to stop."""
        resumed = checkpoints.newest(self.checkpoints)
        progress = _read_progress(resumed)
        reporter = Reporter(
            report=report,
            should_stop=should_stop,
            evaluate=self.evaluate,
            end_epoch=lambda epoch, step, metrics: report(
                EpochDone(epoch, step, self.write("epoch"), metrics)
            ),
            steps_per_epoch=self.steps_per_epoch,
            checkpoint_steps=checkpoint_steps,
            progress=progress,
        )
        self.trainer.progress = progress
        self.trainer.add_callback(reporter)
        report(self._started(resumed))
        self.trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        state = self.trainer.state
        return TrainingOutcome(
            adapter=self.write("final"),
            steps=state.global_step,
            trained_tokens=int(state.num_input_tokens_seen),
            stopped=reporter.stopped and state.global_step < self.total_steps,
            metrics=dict(progress.metrics),
        )

    def write(self, name: str) -> Path:
        """Write the adapter as it is now; an earlier one of that name is replaced."""
        folder = self.task.workdir / name
        shutil.rmtree(folder, ignore_errors=True)
        return lora.write(self.trainer.model, folder, self.loaded.description.name)

    def evaluate(self) -> tuple[float, float] | None:
        """Measure loss and token accuracy over the held-out tokens that carry loss.

        Weighted by tokens, unlike the mean of batch means; draws no random numbers, so that a run
        with evaluations equals one without.
        """
        if not len(self.validation):
            return None
        model = self.trainer.model
        training = model.training
        model.eval()
        sums = torch.zeros(3, dtype=torch.float64)
        with torch.no_grad(), self.trainer.accelerator.autocast():
            for batch in self._batches():
                out = model(**batch, fused_lm_head=True)
                found = (-out.log_probs.sum(), out.is_top1.sum(), out.label_mask.sum())
                sums += torch.stack([value.double().cpu() for value in found])
        model.train(training)
        nll, right, tokens = sums.tolist()
        return nll / tokens, right / tokens

    def _batches(self) -> Iterator[dict[str, Any]]:
        rows = self.validation
        for start in range(0, len(rows), MICRO_BATCH):
            chosen = range(start, min(start + MICRO_BATCH, len(rows)))
            batch = self.collator(
                [{"input_ids": rows.input_ids[i], "labels": rows.labels[i]} for i in chosen]
            )
            yield {name: tensor.to(self.loaded.device) for name, tensor in batch.items()}

    def _started(self, resumed: Path | None) -> Started:
        return Started(
            step=int(resumed.name) if resumed else 0,
            total_steps=self.total_steps,
            train_examples=len(self.rows),
            validation_examples=len(self.validation),
            truncated_examples=self.rows.truncated,
        )


class _ResumableTrainer(SFTTrainer):  # type: ignore[misc]
    """TRL's trainer, whose checkpoints are whole or absent."""

    def __init__(self, checkpoints: Path, **arguments: Any) -> None:
        self.checkpoints = checkpoints
        self.progress = Progress()
        super().__init__(**arguments)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        staging = Path(self.args.output_dir)
        shutil.rmtree(staging, ignore_errors=True)
        # Past TRL's own method, which only adds a model card.
        super(SFTTrainer, self)._save_checkpoint(model, trial)
        step = self.state.global_step
        written = staging / f"checkpoint-{step}"
        (written / PROGRESS).write_bytes(msgspec.json.encode(self.progress))
        checkpoints.seal(written, self.checkpoints, step)


def _arguments(task: TrainingTask, total_steps: int, device: str) -> SFTConfig:
    spec = task.spec
    micro = _micro_batch(spec)
    return SFTConfig(
        output_dir=str(task.workdir / "staging"),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=spec.batch_size // micro,
        num_train_epochs=spec.n_epochs,
        learning_rate=spec.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(spec.warmup_ratio * total_steps),
        max_grad_norm=spec.gradient_clip,
        optim="adamw_torch",
        weight_decay=0.0,
        seed=spec.seed,
        data_seed=spec.seed,
        bf16=device == "cuda",
        use_cpu=device == "cpu",
        gradient_checkpointing=device == "cuda",
        gradient_checkpointing_kwargs={"use_reentrant": False},
        logging_steps=1,
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        # The reporter says when to save, and measures by itself.
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )


def _micro_batch(spec: TrainingSpec) -> int:
    """Find the largest divisor of the batch that fits one pass: accumulation knows no remainder."""
    return max(n for n in range(1, MICRO_BATCH + 1) if spec.batch_size % n == 0)


def _pad_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Choose what fills the shorter rows; it is masked out, so any token will do."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0)


def _read_progress(resumed: Path | None) -> Progress:
    if resumed is None:
        return Progress()
    return msgspec.json.decode((resumed / PROGRESS).read_bytes(), type=Progress)
