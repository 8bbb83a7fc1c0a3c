"""How vLLM is to run: what operators choose, and what follows from it. Pure."""

from pathlib import Path
from typing import Literal

import msgspec

from service.base.description import BaseDescription
from service.base.model_shape import UnknownShape, shape_of
from service.serving.admission import at_once

RANKS = (8, 16, 32, 64, 128, 256)
"""What vLLM takes as the greatest rank."""
GUARDS = 1
"""Slots that never hold an adapter: see `slots`."""
CPU_KV_BYTES = 4 * 1024**3
"""For keys and values on a CPU, at most, unless an operator says how many tokens."""


TUNED = Path(__file__).with_name("tuned")
"""Files of vLLM's: block sizes of its LoRA kernels, by the GPU that they were measured on."""
TUNED_LAYERS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
"""vLLM packs others into layers of which those files say nothing, and does not start then."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What operators choose."""

    max_resident: int
    max_batch: int
    max_lora_rank: int
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    quantization: Literal["none", "fp8", "nf4"] = "none"
    memory_share: float = 0.9
    """Of the card's memory."""
    kv_tokens: int = 0
    """0: as many as the share of the memory leaves."""
    sleeps: bool = False
    """Whether it can be put to sleep."""
    eager: bool = False
    """Without captured graphs: starts sooner, runs slower."""
    guards: int = GUARDS
    """Only a test of the self-check has another number."""

    @property
    def sequences(self) -> int:
        """How many run at once: all that are ever given to vLLM, so that none waits inside it."""
        return at_once(self.max_batch)

    @property
    def slots(self) -> int:
        """LoRA slots: one more than are ever filled.

        vLLM says -1 for "no adapter", and builds for CPUs read that as an index: the last slot's
        adapter then answers for the base. So the last slot stays as it was made: zeros.
        """
        return self.max_resident + self.guards

    @property
    def rank(self) -> int:
        """The least of the ranks that vLLM takes which is enough."""
        return next(rank for rank in RANKS if rank >= self.max_lora_rank)

    def dtype(self, *, on_cpu: bool) -> str:
        """Tell what is computed in."""
        if self.compute_dtype != "auto":
            return self.compute_dtype
        return "float32" if on_cpu else "bfloat16"

    def kv_bytes(self, base: BaseDescription, *, on_cpu: bool) -> int | None:
        """Tell how many bytes keys and values get; None: what the share of the memory leaves."""
        number = 4 if self.dtype(on_cpu=on_cpu) == "float32" else 2
        try:
            each = shape_of(base.config).kv_bytes(number)
        except UnknownShape:
            return CPU_KV_BYTES if on_cpu else None
        # One token more than the context: a prompt that fills it is scored by asking for one more.
        least = (base.context_length + 1) * each
        if self.kv_tokens:
            return max(least, self.kv_tokens * each)
        wanted = self.sequences * least
        return max(least, min(wanted, CPU_KV_BYTES)) if on_cpu else None


def tuned_for(base: BaseDescription, gpu: str) -> Path | None:
    """Give the folder of block sizes, if there are some for this GPU and the base's layers."""
    known = (TUNED / f"{spelled(gpu)}_SHRINK.json").exists()
    return TUNED if known and base.linear_modules <= TUNED_LAYERS else None


def spelled(gpu: str) -> str:
    """Spell a GPU's name as vLLM does in the names of those files."""
    return gpu.replace(" ", "_").replace("-", "_")
