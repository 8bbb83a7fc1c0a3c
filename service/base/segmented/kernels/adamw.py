"""AdamW over some rows of a pool, each with settings of its own, in one pass."""

import triton
import triton.language as tl
from torch import Tensor

_AT_ONCE = 2048


def step_rows(
    weights: Tensor, gradients: Tensor, first: Tensor, second: Tensor, rows: Tensor, terms: Tensor
) -> None:
    """Step `rows` of the four `[capacity, n]` buffers, and set their gradients to zero.

    `terms` are fp32, `[len(rows), 9]`, in the order in which the kernel reads them.
    """
    count = weights.shape[1]
    _step_kernel[(triton.cdiv(count, _AT_ONCE), len(rows))](
        weights, gradients, first, second, rows, terms, count, SIZE=_AT_ONCE
    )


@triton.jit
def _step_kernel(weights, gradients, first, second, rows, terms, count, SIZE: tl.constexpr):
    terms += tl.program_id(1) * 9
    clip, keep = tl.load(terms), tl.load(terms + 1)
    keep_first, add_first = tl.load(terms + 2), tl.load(terms + 3)
    keep_second, add_second = tl.load(terms + 4), tl.load(terms + 5)
    size, correction, eps = tl.load(terms + 6), tl.load(terms + 7), tl.load(terms + 8)

    column = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    place = tl.load(rows + tl.program_id(1)) * count.to(tl.int64) + column
    real = column < count
    gradient = tl.load(gradients + place, mask=real, other=0.0) * clip
    mean = tl.load(first + place, mask=real, other=0.0)
    mean = keep_first * mean + add_first * gradient
    square = tl.load(second + place, mask=real, other=0.0)
    square = keep_second * square + add_second * gradient * gradient
    weight = tl.load(weights + place, mask=real, other=0.0) * keep
    weight -= size * mean / (tl.sqrt(square) / correction + eps)
    tl.store(weights + place, weight, mask=real)
    tl.store(first + place, mean, mask=real)
    tl.store(second + place, square, mask=real)
    tl.store(gradients + place, tl.zeros((SIZE,), tl.float32), mask=real)
