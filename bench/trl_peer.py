"""TRL's SFTTrainer as the peer, in each of the ways it can take the same tokens."""

import gc
import itertools
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from datasets import Dataset
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import AutoTokenizer, TrainerCallback
from transformers.models.llama import modeling_llama
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

from bench.measure import Timed, spread_of, synchronise
from bench.peft_peer import lora_config
from bench.workload import CLIP, LEARNING_RATE
from service.settings import BUNDLED_BASE
from service.training.twin import twin

logging.set_verbosity_error()
# TRL's own default is the name that transformers wants to drop.
warnings.filterwarnings("ignore", "`gradient_checkpointing` is deprecated", FutureWarning)


class Way(msgspec.Struct, frozen=True):
    """One way to train. Loss without logits is in all of them: this TRL always installs it."""

    flat: bool
    """Padding-free, as its packing makes rows: one row, attention kept inside each example."""
    attention: str
    bf16: bool = True
    """Autocast, which is its default; without, the base's own precision."""
    liger: bool = False

    @property
    def name(self) -> str:
        """What the tables call it."""
        parts = ["padding-free" if self.flat else "batch", self.attention]
        parts += ["autocast"] * self.bf16 + ["Liger"] * self.liger
        return " ".join(parts)


def train(
    model: Any, examples: Sequence[Tensor], targets: Sequence[str], way: Way, rounds: int
) -> tuple[Timed, float]:
    """Time steps that each take all examples, after two that are not timed; give the first loss."""
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder, _same_classes():
        # What TRL, PEFT and Liger do to it goes with it.
        lent = twin(model)
        lent.set_attn_implementation(way.attention)
        trainer = _InOrder(
            model=lent,
            args=_arguments(way, folder, len(examples), rounds + 2, model.device.type),
            train_dataset=_dataset(examples, rounds + 2),
            processing_class=AutoTokenizer.from_pretrained(BUNDLED_BASE, local_files_only=True),
            peft_config=lora_config(targets),
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        first = trainer.state.log_history[0]["loss"]
        # It and its model refer to each other.
        del trainer, lent
        gc.collect()
    return clock.timed(), first


class _InOrder(SFTTrainer):
    """Every step takes the same examples, so that all steps are the same work."""

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)


class _Clock(TrainerCallback):  # type: ignore[misc]
    def __init__(self) -> None:
        self._ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        synchronise()
        self._ends.append(time.perf_counter())

    def timed(self) -> Timed:
        # Timed from the end of the second step on.
        pairs = itertools.pairwise(self._ends[1:])
        return spread_of([after - before for before, after in pairs])


@contextmanager
def _same_classes() -> Iterator[None]:
    """Liger puts classes of its own into the module that later models would be made from."""
    before = dict(vars(modeling_llama))
    try:
        yield
    finally:
        vars(modeling_llama).update(before)


def _dataset(examples: Sequence[Tensor], steps: int) -> Dataset:
    ids = [example.tolist() for example in examples]
    return Dataset.from_dict({"input_ids": ids * steps, "labels": ids * steps})


def _arguments(way: Way, folder: str, batch: int, steps: int, device: str) -> SFTConfig:
    return SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=batch,
        max_steps=steps,
        learning_rate=LEARNING_RATE,
        max_grad_norm=CLIP,
        padding_free=way.flat,
        max_length=None,
        bf16=way.bf16,
        use_cpu=device == "cpu",
        # Its default is on, and slower.
        gradient_checkpointing=False,
        use_liger_kernel=way.liger,
        logging_first_step=True,
        logging_steps=steps,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
