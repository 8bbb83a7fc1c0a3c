"""Where a base computes and how it is held there, which only its own process can know. Pure."""

from typing import Literal

import msgspec

from service.base.memory_plan import MemoryPlan


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """One device with the base on it."""

    name: str
    device: Literal["cpu", "cuda"]
    free: int
    """Bytes, before the base was loaded."""
    quantization: Literal["nf4", "none"]
    compute_dtype: str
    memory: MemoryPlan | None
    """How it is run; None where nobody could plan it."""

    @property
    def each(self) -> int:
        """Bytes of a number that is computed with."""
        return 2 if self.compute_dtype == "bfloat16" else 4
