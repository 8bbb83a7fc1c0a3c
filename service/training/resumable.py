"""TRL's trainers, held to checkpoints that are whole or absent and to no network."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast, Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback

from service.base.loading import LoadedBase
from service.training import lora
from service.training.checkpoints import Checkpoints
from service.training.reporting import Metrics
from service.training.spec import TrainingSpec, warmup_steps

METRICS_FILE = "metrics.json"
REQUIRED = (
    lora.WEIGHTS_FILE,
    OPTIMIZER_NAME,
    SCHEDULER_NAME,
    "rng_state.pth",
    TRAINER_STATE_NAME,
    METRICS_FILE,
)
"""Resuming without any one of them would silently be another training."""

_SEEDS = 2**32


class Resumable(Trainer):
    """Put before one of TRL's: saves into, and resumes from, `Checkpoints`; `metrics` go along."""

    def __init__(self, base_name: str, spec: TrainingSpec, **given: Any) -> None:
        super().__init__(peft_config=lora.peft_config(spec.lora), **given)
        self.remove_callback(PrinterCallback)
        lora.keep_fp32(self.model)
        self._base_name = base_name
        self._method = spec.method
        self._checkpoints: Checkpoints | None = None
        self._before_saving: Callable[[int], None] = lambda _: None
        self.metrics: Metrics = {}

    def run(self, checkpoints: Checkpoints, before_saving: Callable[[int], None]) -> None:
        """Train from the newest checkpoint, or from the start, until the end or a stop."""
        self._checkpoints, self._before_saving = checkpoints, before_saving
        resumed = checkpoints.newest()
        self.train(resume_from_checkpoint=str(resumed) if resumed else None)

    def write(self, folder: Path) -> Path:
        """Write the adapter as it is now."""
        return lora.write(self.model, folder, self._base_name, self._method)

    def score(self, sequences: Sequence[Sequence[int]], *, bare: bool) -> list[list[float]]:
        """Give the log-probabilities of each sequence's tokens from the second on.

        Without the adapter if `bare`. Draws no random numbers.
        """
        model, training = self.model, self.model.training
        model.eval()
        worn = model.disable_adapter() if bare else nullcontext()
        try:
            with torch.no_grad(), self.accelerator.autocast(), worn:
                return [self._score(each) for each in sequences]
        finally:
            model.train(training)

    def _score(self, sequence: Sequence[int]) -> list[float]:
        ids = torch.tensor([list(sequence)], device=self.args.device)
        logits = self.model(input_ids=ids, use_cache=False).logits[0, :-1]
        scores = logits.float().log_softmax(-1).gather(-1, ids[0, 1:, None]).squeeze(-1)
        found: list[float] = scores.tolist()
        return found

    def _save_checkpoint(self, _model: Any, _trial: Any) -> None:
        assert self._checkpoints is not None
        step = self.state.global_step
        self._before_saving(step)
        self._checkpoints.write(step, self._fill)

    def _fill(self, folder: Path) -> None:
        self.write(folder)
        self._save_optimizer_and_scheduler(str(folder))
        self._save_rng_state(str(folder))
        (folder / METRICS_FILE).write_bytes(msgspec.json.encode(self.metrics))
        self.state.log_history.clear()
        self.state.save_to_json(str(folder / TRAINER_STATE_NAME))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, _model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        lora.read(self.model, folder)
        kept = msgspec.json.decode((folder / METRICS_FILE).read_bytes(), type=Metrics)
        self.metrics.update(kept)

    def _send_telemetry(self) -> None:
        """Send nothing: TRL tells its makers about every run."""


def arguments(
    spec: TrainingSpec,
    *,
    sequences: int,
    micro_batch: int,
    total_steps: int,
    workdir: Path,
    loaded: LoadedBase,
) -> dict[str, Any]:
    """Spell as TRL does what its methods share; `sequences` are those of an optimizer step."""
    seed = spec.seed % _SEEDS
    return {
        "output_dir": str(workdir),
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": sequences // micro_batch,
        "num_train_epochs": spec.n_epochs,
        "learning_rate": spec.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": warmup_steps(spec.warmup_ratio, total_steps),
        "max_grad_norm": spec.gradient_clip,
        "optim": "adamw_torch",
        "weight_decay": 0.0,
        "seed": seed,
        "data_seed": seed,
        "bf16": loaded.compute_dtype == "bfloat16",
        "use_cpu": loaded.device == "cpu",
        "gradient_checkpointing": loaded.device == "cuda",
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "include_num_input_tokens_seen": "non_padding",
        # The reporter says when to save, and measures by itself.
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
    }


def no_tokenizer() -> PreTrainedTokenizerFast:
    """Make one that has nothing to do but be there: our rows are tokens already."""
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(_NONE), pad_token="?")  # noqa: S106


_NONE = (
    '{"version":"1.0","model":{"type":"WordLevel","vocab":{"?":0},"unk_token":"?"},'
    '"added_tokens":[],"normalizer":null,"pre_tokenizer":null,"post_processor":null,'
    '"decoder":null,"truncation":null,"padding":null}'
)
