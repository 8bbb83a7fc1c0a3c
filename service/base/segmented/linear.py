"""The segmented LoRA linear: one frozen layer, any number of adapters, one row of tokens."""

from typing import Any

import bitsandbytes
import torch
from bitsandbytes.functional import dequantize_4bit
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from service.base.segmented.batch import Batch, Context, Pass


class SegmentedLoraLinear(nn.Module):
    """Give `base(x) + scaling[slot] * (dropout(x) A[slot]) B[slot]` for `[T, in]` or `[1, T, in]`.

    The tokens are those of the context's batch, and so are A and B; gradients are added to that
    batch's slots: they are no parameters of the model and have no `.grad`.
    """

    def __init__(
        self, base: nn.Linear, *, name: str, index: int, context: Context, cache: bool
    ) -> None:
        super().__init__()
        self.base = base
        self.name = name
        self.index = index
        self.in_features, self.out_features = base.in_features, base.out_features
        self._context = context
        self._cached = self._dequantised().detach() if cache and self.quantised else None

    @property
    def quantised(self) -> bool:
        """Whether the base's weights are held in 4 bits."""
        return isinstance(self.base, bitsandbytes.nn.Linear4bit)

    def weight(self) -> Tensor:
        """Give the base's weights as they are computed with."""
        if self._cached is not None:
            return self._cached
        return self._dequantised() if self.quantised else self.base.weight.detach()

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        batch = self._context.batch
        if x.numel() != batch.tokens * self.in_features:
            raise ValueError(f"{tuple(x.shape)} is not the batch of {batch.tokens} tokens")
        rows = x.reshape(-1, self.in_features)
        if torch.is_grad_enabled():
            out = _Segmented.apply(rows, _ANCHOR, self, batch)
        else:
            out, _ = _forward(rows, self, batch, keep=False)
        return out.view(*x.shape[:-1], self.out_features)

    def plain(self, rows: Tensor) -> Tensor:
        """Give the base's answer alone."""
        weight = self.weight()
        bias = None if self.base.bias is None else self.base.bias.to(weight.dtype)
        return functional.linear(rows.to(weight.dtype), weight, bias).to(rows.dtype)

    def _dequantised(self) -> Tensor:
        weight: Any = self.base.weight
        dtype = self.base.compute_dtype or weight.quant_state.dtype
        return dequantize_4bit(weight.data, weight.quant_state).to(dtype)


_ANCHOR = torch.empty(0, requires_grad=True)
"""Makes autograd call back for the first layers too, whose input wants no gradient."""


class _Segmented(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, _: Tensor, layer: SegmentedLoraLinear, batch: Batch) -> Tensor:
        out, hidden = _forward(x, layer, batch, keep=True)
        ctx.layer, ctx.batch = layer, batch
        ctx.adapts = hidden is not None
        if hidden is not None:
            ctx.save_for_backward(x, hidden)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        layer, batch = ctx.layer, ctx.batch
        batch.pause()
        into = _through_base(layer, gradient) if ctx.needs_input_grad[0] else None
        if ctx.adapts:
            _through_adapters(ctx.saved_tensors, gradient, into, layer, batch)
        return into, None, None, None


def _forward(
    x: Tensor, layer: SegmentedLoraLinear, batch: Pass, *, keep: bool
) -> tuple[Tensor, Tensor | None]:
    """Give the layer's answer and, to keep, what lies between A and B if an adapter is there."""
    batch.pause()
    out = layer.plain(x)
    if layer.name not in batch.layers:
        return out, None
    hidden = batch.products.add_through(
        out[: batch.adapted],
        _dropped(x[: batch.adapted], layer, batch),
        *batch.weights(layer.name),
        batch.scaling,
        keep=keep,
    )
    return out, hidden


def _through_base(layer: SegmentedLoraLinear, gradient: Tensor) -> Tensor:
    weight = layer.weight()
    return (gradient.to(weight.dtype) @ weight).to(gradient.dtype)


def _through_adapters(
    saved: tuple[Tensor, ...],
    gradient: Tensor,
    into: Tensor | None,
    layer: SegmentedLoraLinear,
    batch: Batch,
) -> None:
    x, hidden = saved
    gradient = gradient[: batch.adapted]
    inner = _through_products(gradient, into, layer, batch)
    into_a, into_b = batch.gradients(layer.name)
    batch.products.add_outer(into_a, _dropped(x[: batch.adapted], layer, batch), inner)
    batch.products.add_outer(into_b, hidden, gradient)


def _through_products(
    gradient: Tensor, into: Tensor | None, layer: SegmentedLoraLinear, batch: Batch
) -> Tensor:
    """Add to `into`, if it is wanted; give the gradient between B and A."""
    a, b = batch.weights(layer.name)
    products, adapted = batch.products, slice(batch.adapted)
    if into is not None and batch.dropout is None:
        inner = products.add_through(into[adapted], gradient, b.mT, a.mT, batch.scaling)
        assert inner is not None
        return inner
    inner = products.times(gradient, b.mT, batch.scaling)
    if into is not None:
        # The mask is its own derivative.
        into[adapted] += _dropped(products.times(inner, a.mT), layer, batch)
    return inner


def _dropped(x: Tensor, layer: SegmentedLoraLinear, batch: Pass) -> Tensor:
    return x if batch.dropout is None else batch.dropout.apply(x, layer.index)
