"""Attention of one new token for each row to a past that lies in blocks, on a GPU.

The grids depend on shapes only, so that a CUDA graph can hold them while lengths and tables change.
"""

import torch
import triton
from torch import Tensor

from service.base.generating.kernels.paged import attend_part_kernel, join_parts_kernel

_TOKENS = 64
"""Of the past, in one turn of the kernel's loop."""
_PROGRAMS = 512
"""About how many keep a large GPU busy."""
_MOST_PARTS = 32
_LEAST = 16
"""What the tensor cores take at least."""


def paged_decode(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    lengths: Tensor,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """Attend: `q` is `[rows, heads, width]`, of one new token for each row.

    `keys` and `values` are `[blocks, size, key heads, width]`. Row r's past is `lengths[r]` tokens
    (the new one included) in the blocks `tables[r]`; of it the last `window` are seen.
    """
    rows, heads, width = q.shape
    size, key_heads = keys.shape[1:3]
    parts = _parts(rows * key_heads, tables.shape[1] * size)
    q = q.contiguous()
    sums = torch.empty((rows, heads, parts, width), dtype=torch.float32, device=q.device)
    scores = torch.empty((rows, heads, parts), dtype=torch.float32, device=q.device)
    out = torch.empty_like(q)
    group = heads // key_heads
    padded = max(_LEAST, triton.next_power_of_2(width))
    attend_part_kernel[(rows, key_heads, parts)](
        q, keys, values, tables, lengths, sums, scores,
        width**-0.5 if scaling is None else scaling,
        tables.stride(0), keys.stride(0), keys.stride(1), keys.stride(2),
        window=-1 if window is None else window,
        parts=parts, heads=heads, group=group, width=width, size=size,
        padded_group=max(_LEAST, triton.next_power_of_2(group)),
        padded_width=padded, tokens=_TOKENS,
    )  # fmt: skip
    join_parts_kernel[(rows, heads)](
        sums, scores, out, heads=heads, parts=parts, width=width, padded_width=padded
    )
    return out


def _parts(programs: int, tokens: int) -> int:
    most = max(1, min(_MOST_PARTS, triton.cdiv(tokens, _TOKENS), _PROGRAMS // programs))
    return triton.next_power_of_2(most)
