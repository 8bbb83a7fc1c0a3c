"""When a run no longer gets better, and which of its evaluations was the best. Pure."""

import msgspec

from service.training.spec import EarlyStopping


class Watch(msgspec.Struct, frozen=True):
    """What to remember of the evaluations so far.

    `mark` is the loss that counts as the last improvement. Many small steps down count as one once
    they add up to `min_delta`; the best is the lowest all the same.
    """

    mark: float
    best: float
    best_step: int
    waited: int = 0
    """Evaluations since the last improvement."""


def watch(rule: EarlyStopping, before: Watch | None, step: int, loss: float) -> Watch:
    """Take an evaluation into account; `before` is None at the first."""
    if before is None:
        return Watch(loss, loss, step)
    best, best_step = min((before.best, before.best_step), (loss, step))
    if loss < before.mark - rule.min_delta:
        return Watch(loss, best, best_step)
    return Watch(before.mark, best, best_step, before.waited + 1)


def is_over(rule: EarlyStopping | None, seen: Watch | None) -> bool:
    """Tell whether to wait no longer."""
    return rule is not None and seen is not None and seen.waited >= rule.patience
