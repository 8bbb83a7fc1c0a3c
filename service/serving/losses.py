"""What two sets of scores say of an adapter and its base. Pure."""

from collections.abc import Sequence
from math import exp, fsum, inf, log, log1p, sqrt

import msgspec

from service.base.probes import HeldOut, Measured

Scores = Sequence[Sequence[float]]


class Losses(msgspec.Struct, frozen=True):
    """Mean losses on the same examples, in nats, and the standard error of their difference."""

    base: float
    adapter: float
    error: float
    """Infinite where there are too few to tell."""


def differences(scores: Scores, others: Scores) -> list[float]:
    """Subtract, token by token."""
    pairs = zip(scores, others, strict=True)
    return [one - other for each in pairs for one, other in zip(*each, strict=True)]


def gap(scores: Scores, others: Scores) -> float:
    """Give the mean absolute difference of a token's score."""
    return _mean([abs(value) for value in differences(scores, others)])


def held_out_losses(held_out: HeldOut, base: Scores, adapter: Scores) -> Losses | None:
    """Compare the scores of held-out examples; None if there are none.

    Scores of more examples than those are left out.
    """
    if not held_out.examples:
        return None
    ours, theirs = _learned(held_out.examples, adapter), _learned(held_out.examples, base)
    if held_out.beta is not None:
        return _of_preferences(held_out.beta, ours, theirs)
    worse = [[b - a for a, b in zip(*each, strict=True)] for each in zip(ours, theirs, strict=True)]
    return Losses(_loss(theirs), _loss(ours), _error_of_mean(worse))


def _of_preferences(beta: float, ours: Scores, theirs: Scores) -> Losses:
    """Compare by DPO's loss, whose reference is the base: its own loss is ln 2."""
    gains = [fsum(a) - fsum(b) for a, b in zip(ours, theirs, strict=True)]
    losses = [
        _softplus(beta * (other - preferred))
        for preferred, other in zip(gains[::2], gains[1::2], strict=True)
    ]
    of_base = log(2)
    error = _error_of_mean([[loss - of_base] for loss in losses]) if len(losses) > 1 else inf
    return Losses(of_base, _mean(losses), error)


def _loss(scores: Scores) -> float:
    return -_mean([value for each in scores for value in each])


def _learned(examples: Sequence[Measured], scores: Scores) -> Scores:
    # The first score is of the second token.
    return [
        [each[place - 1] for place in example.learned]
        for example, each in zip(examples, scores[: len(examples)], strict=True)
    ]


def _error_of_mean(groups: Scores) -> float:
    """Estimate the standard error of the mean of all values; those of one group go together.

    The larger of what independent values and independent groups would give: of few groups, the
    latter says too little. Infinite for a single value.
    """
    values = [value for group in groups for value in group]
    if len(values) < 2:
        return inf
    mean, count = _mean(values), len(values)
    alone = fsum((value - mean) ** 2 for value in values) / (count - 1) / count
    together = fsum(fsum(value - mean for value in group) ** 2 for group in groups) / count**2
    return sqrt(max(alone, together))


def _softplus(value: float) -> float:
    return max(value, 0.0) + log1p(exp(-abs(value)))


def _mean(values: Sequence[float]) -> float:
    return fsum(values) / len(values)
