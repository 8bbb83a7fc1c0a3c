"""RMS norm with frozen weights, there and back, in one pass over the rows each."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

_AT_ONCE = 4096


class RMSNorm(torch.autograd.Function):
    """`apply(x, weight, eps)`: rounds where Hugging Face's does, before it weighs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Normalise the last dimension."""
        x = x.contiguous()
        out = torch.empty_like(x)
        scale = x.new_empty(x.numel() // x.shape[-1], dtype=torch.float32)
        _launch(_forward_kernel, (x, weight, out, scale), x, eps)
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Give the gradient of `x`; the weights have none."""
        x, weight, scale = ctx.saved_tensors
        into = torch.empty_like(x)
        _launch(_backward_kernel, (x, weight, gradient.contiguous(), into, scale), x)
        return into, None, None


def _launch(kernel: Any, tensors: tuple[Tensor, ...], x: Tensor, *others: float) -> None:
    width = x.shape[-1]
    across = triton.next_power_of_2(width)
    rows, high = x.numel() // width, max(1, _AT_ONCE // across)
    kernel[(triton.cdiv(rows, high),)](
        *tensors,
        rows,
        width,
        *others,
        ROWS=high,
        WIDTH=across,
        num_warps=min(16, max(4, high * across // 512)),
    )


@triton.jit
def _place(rows, width, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    real = (row < rows)[:, None] & (column < width)[None, :]
    return row, column, row[:, None] * width + column[None, :], real


@triton.jit(do_not_specialize=["rows"])
def _forward_kernel(
    x, weight, out, scale, rows, width, eps, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    row, column, place, real = _place(rows, width, ROWS, WIDTH)
    given = tl.load(x + place, mask=real, other=0.0).to(tl.float32)
    factor = 1 / tl.sqrt(tl.sum(given * given, axis=1) / width + eps)
    tl.store(scale + row, factor, mask=row < rows)
    weighed = tl.load(weight + column, mask=column < width, other=0.0)
    normed = (given * factor[:, None]).to(out.dtype.element_ty) * weighed[None, :]
    tl.store(out + place, normed, mask=real)


@triton.jit(do_not_specialize=["rows"])
def _backward_kernel(
    x, weight, gradient, into, scale, rows, width, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    row, column, place, real = _place(rows, width, ROWS, WIDTH)
    factor = tl.load(scale + row, mask=row < rows, other=0.0)[:, None]
    normed = tl.load(x + place, mask=real, other=0.0).to(tl.float32) * factor
    weighed = tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)
    coming = tl.load(gradient + place, mask=real, other=0.0).to(tl.float32) * weighed[None, :]
    along = tl.sum(coming * normed, axis=1)[:, None] / width
    going = factor * (coming - normed * along)
    tl.store(into + place, going.to(into.dtype.element_ty), mask=real)
