"""What to train: the job's method with `auto` resolved. Knows nothing of jobs or HTTP."""

import math
from typing import Literal

import msgspec

from service.training.graders.shapes import Grader

Method = Literal["supervised", "dpo", "reinforcement"]

MAX_RANK = 256
MAX_BATCH = 256
MAX_LENGTH = 32768
DEFAULT_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


class LoraSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The adapter's shape. Defaults are the guide's."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    target_modules: tuple[str, ...] = DEFAULT_TARGETS
    rslora: bool = False


class DpoSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Direct preference optimisation."""

    beta: float = 0.1
    """How much it costs to move away from the base."""


class ReinforcementSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Group-relative policy optimisation: answers are sampled, graded, and compared."""

    grader: Grader
    completions: int = 8
    """Sampled for each prompt of a batch."""
    max_completion_tokens: int = 256
    eval_interval: int = 0
    """Steps between two measurements; an epoch's end is always measured. 0: only that."""
    eval_samples: int = 1
    """Sampled for each held-out prompt when measuring."""


class EarlyStopping(msgspec.Struct, frozen=True, kw_only=True):
    """When to end before the last epoch; see `early_stopping`."""

    patience: int
    """Evaluations without improvement."""
    min_delta: float = 0.0
    """By how much the loss has to fall to count."""


class BaseAdapter(msgspec.Struct, frozen=True, kw_only=True):
    """The revision to go on from, of the task's own tenant."""

    adapter: str
    digest: str


class TrainingSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides the resulting weights, besides base and data."""

    method: Method = "supervised"
    dpo: DpoSpec | None = None
    """Given for the method of that name, as is `reinforcement`."""
    reinforcement: ReinforcementSpec | None = None
    lora: LoraSpec = LoraSpec()
    quantization: Literal["nf4", "none", "auto"] = "nf4"
    """`auto` is chosen by the memory there is when the base is loaded."""
    n_epochs: int = 3
    batch_size: int = 8
    learning_rate: float = 2e-4
    """Effective: `learning_rate` times `learning_rate_multiplier`."""
    max_length: int = 2048
    warmup_ratio: float = 0.03
    gradient_clip: float = 1.0
    validation_split: float = 0.05
    seed: int = 0
    eval_steps: int | None = None
    """Measure the held-out examples every so many steps, and not at epochs' ends only."""
    early_stopping: EarlyStopping | None = None
    base_adapter: BaseAdapter | None = None


def warmup_steps(ratio: float, total: int) -> int:
    """Round up, but leave the last step out: the rate of the first is 0, and one may be all."""
    return min(math.ceil(ratio * total), total - 1)


def held_out(rows: int, split: float) -> int:
    """Tell how many rows to hold out: at least one if any are asked for, never all of them."""
    if split <= 0 or rows < 2:
        return 0
    return min(rows - 1, max(1, round(rows * split)))
