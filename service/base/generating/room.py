"""How many tokens' keys and values there is memory for."""

import torch

from service.base.generating.kv import KvShape
from service.base.memory import available_memory

MOST_TOKENS_EACH = 2048
"""On a CPU: room for so many for each sequence is plenty."""
_SHARE = {"cpu": 0.25, "cuda": 0.4}
"""Of the memory that is free once the base is loaded; the rest is for training and adapters."""


def free_memory(device: torch.device) -> int:
    """Give the bytes that are free where `device` computes."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()


def tokens_that_fit(
    shape: KvShape, device: torch.device, *, context: int, sequences: int, free: int | None = None
) -> int:
    """Give how many tokens the cache should hold, where nobody said.

    Never less than one context, so that what may be asked for can be answered.
    """
    free = free_memory(device) if free is None else free
    most = int(_SHARE[device.type] * free) // shape.bytes_each
    if device.type == "cpu":
        most = min(most, sequences * min(context, MOST_TOKENS_EACH))
    return max(most, context)
