"""Cross entropy of one row of logits, in two passes over it."""

import triton
import triton.language as tl
from torch import Tensor

_AT_ONCE = 4096


def compare(logits: Tensor, targets: Tensor, nll: Tensor, correct: Tensor, *, share: bool) -> None:
    """Fill `nll` and `correct`; then turn `logits` into probabilities less 1 for the target.

    `logits` is `[n, words]`, the others `[n]`; the last step is only taken if `share`.
    """
    _compare_kernel[(len(logits),)](
        logits,
        targets,
        nll,
        correct,
        logits.shape[1],
        logits.stride(0),
        SHARE=share,
        WORDS=_AT_ONCE,
        num_warps=8,
    )


@triton.jit
def _compare_kernel(
    logits, targets, nll, correct, words, stride, SHARE: tl.constexpr, WORDS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    target = tl.load(targets + row)
    right = tl.load(logits + target).to(tl.float32)
    lane = tl.arange(0, WORDS)

    # Each lane looks at every WORDS-th word; they are put together after the last.
    most = tl.full((WORDS,), -1e30, tl.float32)
    likeliest = tl.zeros((WORDS,), tl.int32)
    total = tl.zeros((WORDS,), tl.float32)
    for start in range(0, words, WORDS):
        word = start + lane
        value = tl.load(logits + word, mask=word < words, other=float("-inf")).to(tl.float32)
        likeliest = tl.where(value > most, word, likeliest)
        higher = tl.maximum(most, value)
        total = total * tl.exp(most - higher) + tl.exp(value - higher)
        most = higher
    highest = tl.max(most, axis=0)
    first = tl.min(tl.where(most == highest, likeliest, words), axis=0)
    normaliser = highest + tl.log(tl.sum(total * tl.exp(most - highest), axis=0))
    tl.store(nll + row, normaliser - right)
    tl.store(correct + row, first == target)

    if SHARE:
        for start in range(0, words, WORDS):
            word = start + lane
            real = word < words
            value = tl.load(logits + word, mask=real, other=0.0).to(tl.float32)
            share = tl.exp(value - normaliser) - tl.where(word == target, 1.0, 0.0)
            tl.store(logits + word, share.to(logits.dtype.element_ty), mask=real)
