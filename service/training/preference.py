"""Direct preference optimisation, on TRL's DPOTrainer and a twin of the base."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from trl import DPOConfig, DPOTrainer

from service.base.loading import LoadedBase
from service.training.pairs import Pair, Pairs, render_pairs
from service.training.probing import of_pairs
from service.training.reporting import Schedule
from service.training.resumable import Resumable, arguments, no_tokenizer
from service.training.rows import IGNORED, micro_batch
from service.training.solo import Counts, Run, SoloTrainer
from service.training.spec import DpoSpec, TrainingSpec
from service.training.trainer import Evaluated, TrainingTask

TOKENS_AT_ONCE = 16384
"""In one forward pass, padding included; larger batches accumulate."""

ACCURACY = "mean_token_accuracy"
REWARDS = ("rewards/margins", "rewards/accuracies", "rewards/chosen", "rewards/rejected")
"""Of TRL: how much more the adapter likes the preferred answer than the base does, and so on."""

Batch = dict[str, torch.Tensor]


class PreferenceTrainer(SoloTrainer):
    """Implements `Trainer` for tasks of the method `dpo`."""

    def prepare(self, task: TrainingTask, model: Any) -> Run:
        """See SoloTrainer.prepare."""
        spec, pairs = task.spec, render_pairs(self.renderer, task)
        steps = math.ceil(len(pairs.train) / spec.batch_size)
        every = spec.eval_steps or 0
        schedule = Schedule(steps, steps * spec.n_epochs, self.checkpoint_steps, every)
        # A pair is two sequences.
        micro = micro_batch(spec.batch_size, 2 * pairs.longest, TOKENS_AT_ONCE)
        trainer = ResumableDpo(
            self.loaded.description.name,
            spec,
            pairs.train,
            model=model,
            args=_arguments(spec, micro, schedule.total_steps, task.workdir, self.loaded),
        )
        return Run(
            task=task,
            trainer=trainer,
            schedule=schedule,
            checkpoints=self.checkpoints(task, [*pairs.train, *pairs.validation]),
            counts=Counts(len(pairs.train), len(pairs.validation), pairs.truncated, pairs.dropped),
            evaluate=lambda step: _evaluate(trainer, pairs, step),
            logged={name: name for name in REWARDS},
            probes=of_pairs(pairs.train, pairs.validation, (spec.dpo or DpoSpec()).beta),
        )


class ResumableDpo(Resumable, DPOTrainer):
    """TRL's trainer on our checkpoints and our tokens, its loss a mean over the whole batch."""

    # TRL would give a batch's last, smaller part the weight of a whole one.
    loss_is_scaled_for_ga = True

    def __init__(
        self, base_name: str, spec: TrainingSpec, pairs: Sequence[Pair], **given: Any
    ) -> None:
        self._pairs_of_step = 0
        super().__init__(
            base_name,
            spec,
            train_dataset=Dataset.from_dict({"pair": list(range(len(pairs)))}),
            data_collator=lambda picked: collate([pairs[one["pair"]] for one in picked]),
            processing_class=no_tokenizer(),
            **given,
        )
        # Its special tokens would be written into the model's config.
        self.processing_class = None

    def get_batch_samples(self, *given: Any) -> tuple[list[Batch], Any]:
        """Count the pairs of an optimizer step."""
        batches, items = super().get_batch_samples(*given)
        self._pairs_of_step = sum(_pairs_in(batch) for batch in batches)
        return batches, items

    def compute_loss(self, model: Any, inputs: Batch, *given: Any, **named: Any) -> torch.Tensor:
        """Give a part's share in the step's mean; when measuring, its own mean."""
        loss: torch.Tensor = super().compute_loss(model, inputs, *given, **named)
        return loss * _pairs_in(inputs) / self._pairs_of_step if self.model.training else loss

    def measure(self, batch: Batch) -> dict[str, float]:
        """Give a batch's mean loss, accuracy and rewards."""
        loss = self.compute_loss(self.model, self._prepare_inputs(batch))
        found = {name: values[-1] for name, values in self._metrics["eval"].items()}
        self._metrics["eval"].clear()
        return {"loss": float(loss)} | {name: found[name] for name in (ACCURACY, *REWARDS)}

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


def collate(pairs: Sequence[Pair]) -> Batch:
    """Lay preferred answers, then the others, each with its prompt, padded at the right."""
    rows = [pair.preferred for pair in pairs] + [pair.other for pair in pairs]

    def padded(values: Callable[[Any], list[int]]) -> torch.Tensor:
        return pad_sequence([torch.tensor(values(row)) for row in rows], batch_first=True)

    return {
        "input_ids": padded(lambda row: row.input_ids),
        "attention_mask": padded(lambda row: [1] * len(row.input_ids)),
        "completion_mask": padded(lambda row: [int(label != IGNORED) for label in row.labels]),
    }


def _arguments(
    spec: TrainingSpec, micro: int, total_steps: int, workdir: Path, loaded: LoadedBase
) -> DPOConfig:
    shared = arguments(
        spec,
        sequences=spec.batch_size,
        micro_batch=micro,
        total_steps=total_steps,
        workdir=workdir,
        loaded=loaded,
    )
    beta = (spec.dpo or DpoSpec()).beta
    # The adapter's dropout is the tenant's to choose.
    return DPOConfig(**shared, beta=beta, max_length=None, disable_dropout=False)


def _evaluate(trainer: ResumableDpo, pairs: Pairs, step: int) -> Evaluated | None:
    """Measure over the held-out pairs, each of one weight."""
    if not pairs.validation:
        return None
    model = trainer.model
    model.eval()
    sums: dict[str, float] = {}
    with torch.no_grad(), trainer.accelerator.autocast():
        for batch in _batches(pairs):
            for name, value in trainer.measure(batch).items():
                sums[name] = sums.get(name, 0.0) + value * _pairs_in(batch)
    model.train()
    means = {name: value / len(pairs.validation) for name, value in sums.items()}
    rewards = {f"valid_{name}": means[name] for name in REWARDS}
    return Evaluated(step, means["loss"], means[ACCURACY], rewards)


def _batches(pairs: Pairs) -> Iterator[Batch]:
    size = max(1, TOKENS_AT_ONCE // (2 * pairs.longest))
    for start in range(0, len(pairs.validation), size):
        yield collate(pairs.validation[start:][:size])


def _pairs_in(batch: Batch) -> int:
    return len(batch["input_ids"]) // 2
