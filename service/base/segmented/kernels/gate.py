"""`silu(gate) * up`, there and back, in one pass each."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

_AT_ONCE = 2048


class SiluGate(torch.autograd.Function):
    """`apply(gate, up)`: two tensors of one shape."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        """Give what goes on."""
        gate, up = gate.contiguous(), up.contiguous()
        out = torch.empty_like(gate)
        count = gate.numel()
        _forward_kernel[(triton.cdiv(count, _AT_ONCE),)](gate, up, out, count, SIZE=_AT_ONCE)
        ctx.save_for_backward(gate, up)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Give both gradients."""
        gate, up = ctx.saved_tensors
        into_gate, into_up = torch.empty_like(gate), torch.empty_like(up)
        count = gate.numel()
        _backward_kernel[(triton.cdiv(count, _AT_ONCE),)](
            gate, up, gradient.contiguous(), into_gate, into_up, count, SIZE=_AT_ONCE
        )
        return into_gate, into_up


@triton.jit
def _forward_kernel(gate, up, out, count, SIZE: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    real = place < count
    opened = tl.load(gate + place, mask=real, other=0.0).to(tl.float32)
    value = tl.load(up + place, mask=real, other=0.0).to(tl.float32)
    passed = opened * tl.sigmoid(opened) * value
    tl.store(out + place, passed.to(out.dtype.element_ty), mask=real)


@triton.jit
def _backward_kernel(gate, up, gradient, into_gate, into_up, count, SIZE: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    real = place < count
    opened = tl.load(gate + place, mask=real, other=0.0).to(tl.float32)
    value = tl.load(up + place, mask=real, other=0.0).to(tl.float32)
    coming = tl.load(gradient + place, mask=real, other=0.0).to(tl.float32)
    share = tl.sigmoid(opened)
    slope = share * (1 + opened * (1 - share))
    kind = into_gate.dtype.element_ty
    tl.store(into_gate + place, (coming * value * slope).to(kind), mask=real)
    tl.store(into_up + place, (coming * opened * share).to(kind), mask=real)
