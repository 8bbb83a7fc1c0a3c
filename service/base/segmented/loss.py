"""Vocabulary projection and cross entropy, some rows at a time.

`torch.nn.functional.linear_cross_entropy` is not used: with weights per token it must be asked for
`reduction="none"`, whose backward pass projects a second time, and it does not tell which tokens
were right. Here the weights are known beforehand, so the gradient is made in the same pass.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from service.base.segmented.batch import go_on
from service.base.segmented.products import has_triton

_NUMBERS_AT_ONCE = {"cpu": 2**17, "cuda": 2**27}
"""Of logits, in fp32: what stays in a CPU's cache, and half a gigabyte of a GPU's memory."""


class TokenLosses(msgspec.Struct, frozen=True):
    """`total` is the weighted sum and carries the gradient; the others are per row, without."""

    total: Tensor
    nll: Tensor
    correct: Tensor
    """Whether the likeliest token was the right one."""


def token_losses(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    bias: Tensor | None = None,
    rows_at_once: int | None = None,
    pause: Callable[[], None] = go_on,
) -> TokenLosses:
    """Compare each row of `hidden` with its target: `[n, width]`, `[n]`; `head` is frozen.

    The logits of at most `rows_at_once` rows exist at a time; `pause` is called before each
    of their products.
    """
    chunk = rows_at_once or max(1, _NUMBERS_AT_ONCE[hidden.device.type] // head.shape[0])
    total, nll, correct = _Chunked.apply(hidden, head, bias, targets, weights, chunk, pause)
    return TokenLosses(total, nll, correct)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        weights: Tensor,
        chunk: int,
        pause: Callable[[], None],
    ) -> tuple[Tensor, Tensor, Tensor]:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        nll = torch.empty(len(targets), dtype=exact, device=hidden.device)
        correct = torch.empty(len(targets), dtype=torch.bool, device=hidden.device)
        into = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(targets), chunk):
            pause()
            piece = slice(start, start + chunk)
            logits = functional.linear(hidden[piece], head, bias)
            compare = _compare if logits.is_cuda and has_triton() else _plain
            share = into is not None
            logits = compare(logits, targets[piece], nll[piece], correct[piece], share=share)
            if into is not None:
                pause()
                into[piece] = (logits.to(head.dtype) @ head) * weights[piece, None]
        ctx.into = into
        ctx.mark_non_differentiable(nll, correct)
        return (nll * weights).sum(), nll, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        into = ctx.into
        ctx.into = None
        return (into * gradient.to(into.dtype), *[None] * 6)


def _compare(
    logits: Tensor, targets: Tensor, nll: Tensor, correct: Tensor, *, share: bool
) -> Tensor:
    from service.base.segmented.kernels.loss import compare

    compare(logits, targets, nll, correct, share=share)
    return logits


def _plain(logits: Tensor, targets: Tensor, nll: Tensor, correct: Tensor, *, share: bool) -> Tensor:
    """Fill `nll` and `correct`; give what makes the gradient with respect to the logits.

    That is the probabilities less 1 for the target, if they are to be shared out.
    """
    correct.copy_(logits.argmax(dim=-1) == targets)
    logged = functional.log_softmax(logits, dim=-1, dtype=nll.dtype)
    right = targets.unsqueeze(-1)
    nll.copy_(-logged.gather(1, right).squeeze(1))
    if share:
        logged.exp_().scatter_add_(1, right, torch.full_like(right, -1, dtype=logged.dtype))
    return logged
