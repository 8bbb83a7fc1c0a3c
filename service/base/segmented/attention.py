"""How the tokens of one row see each other: the batch says, through one registered function."""

import inspect
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import varlen
from transformers import AttentionInterface

from service.base.segmented.layout import ends

NAME = "lorehouse_packed"
_SHORT = 512
"""Tokens up to which a CPU's backward pass in bf16 is slower than in fp32: up to five times."""
_LEFT_OUT = ("softcap", "s_aux", "position_bias")
_varlen_attn: Any = varlen.varlen_attn
# Older ones share key heads without being asked.
_SHARED = {"enable_gqa": True} if "enable_gqa" in inspect.signature(_varlen_attn).parameters else {}


class Attend(Protocol):
    """One row's attention."""

    def __call__(
        self,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scaling: float | None,
        window: int | None,
    ) -> Tensor:
        """Give `[T, heads, width]`; `q`, `k` and `v` are that too, `k` and `v` of fewer heads.

        `layer` counts the model's layers; `window` is how many tokens back one sees, itself too.
        """
        ...


class Packed:
    """Implements `Attend` for whole examples: causal inside each, nothing across."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self._lengths = tuple(lengths)
        self._longest = max(lengths)
        self._boundaries = torch.tensor([0, *ends(lengths)], dtype=torch.int32, device=device)

    def __call__(
        self,
        layer: int,  # noqa: ARG002 - the same in each
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scaling: float | None,
        window: int | None,
    ) -> Tensor:
        """See Attend."""
        if window is not None and window >= self._longest:
            window = None
        if not q.is_cuda:
            return _on_cpu(q, k, v, self._lengths, scaling, window)
        boundaries, longest = (self._boundaries,) * 2, (self._longest,) * 2
        return causal_on_gpu(q, k, v, boundaries, longest, scaling, window)


def causal_on_gpu(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    boundaries: tuple[Tensor, Tensor],
    longest: tuple[int, int],
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """Attend within examples that lie one after another, their last tokens side by side.

    `boundaries` and `longest` are those of the queries and of the keys.
    """
    out: Tensor = _varlen_attn(
        q,
        k,
        v,
        *boundaries,
        *longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        **_SHARED,
    )
    return out


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend as the batch, `packing`, has it. `query`, `key`, `value` are `[1, heads, T, width]`.

    Gives `[1, T, heads, width]`. Raises ValueError for what it would have to leave out.
    """
    strange = [name for name in _LEFT_OUT if others.get(name) is not None]
    if attention_mask is not None or dropout or strange or query.shape[0] != 1:
        raise ValueError(f"packed attention has no mask, dropout or batch, nor {strange}")
    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
    out = packing.attend(module.layer_idx, q, k, v, scaling=scaling, window=sliding_window)
    return out.unsqueeze(0), None


def _on_cpu(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: tuple[int, ...],
    scaling: float | None,
    window: int | None,
) -> Tensor:
    if len(set(lengths)) == 1:
        q, k, v = (t.unflatten(0, (len(lengths), -1)) for t in (q, k, v))
        return _examples(q, k, v, scaling, window).flatten(0, 1)
    pieces = zip(*(t.unsqueeze(0).split(lengths, dim=1) for t in (q, k, v)), strict=True)
    return torch.cat([_examples(q, k, v, scaling, window)[0] for q, k, v in pieces])


def _examples(q: Tensor, k: Tensor, v: Tensor, scaling: float | None, window: int | None) -> Tensor:
    """Attend in examples of equal length: `[examples, length, heads, width]`."""
    shared, given = q.shape[2] // k.shape[2], q.dtype
    dtype = torch.promote_types(given, torch.float32) if q.shape[1] <= _SHORT else given
    q, k, v = (t.transpose(1, 2).to(dtype) for t in (q, k, v))
    if window is not None and window < q.shape[2]:
        k, v = (t.repeat_interleave(shared, dim=1) for t in (k, v))
        return _windowed(q, k, v, scaling, window).transpose(1, 2).to(given)
    out = functional.scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=scaling, enable_gqa=shared > 1
    )
    return out.transpose(1, 2).to(given)


def _windowed(q: Tensor, k: Tensor, v: Tensor, scaling: float | None, window: int) -> Tensor:
    """Take a window's length of queries at a time, with the keys that any of them sees."""
    out = []
    for start in range(0, q.shape[2], window):
        end, first = min(start + window, q.shape[2]), max(0, start - window + 1)
        behind = torch.arange(start, end)[:, None] - torch.arange(first, end)[None, :]
        seen = ((behind >= 0) & (behind < window)).to(q.device)
        keys, values = k[:, :, first:end], v[:, :, first:end]
        piece = functional.scaled_dot_product_attention(
            q[:, :, start:end], keys, values, attn_mask=seen, scale=scaling
        )
        out.append(piece)
    return torch.cat(out, dim=2)


AttentionInterface.register(NAME, packed_attention)
