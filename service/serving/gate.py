"""The publish gate: whether what was trained, or brought, is fit to answer requests.

`examine` has the serving engine itself score the probes; what follows from the figures is pure.
Why the rules are as they are is in docs/decisions/0014-the-publish-gate.md.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import isfinite
from typing import Any, Literal

import msgspec

from adapters_store import RevisionRef
from service.base.probes import HeldOut, Probe, Probes
from service.errors import ServiceError
from service.serving.engine import Engine
from service.serving.losses import Scores, differences, gap, held_out_losses

CheckName = Literal["loads", "finite", "changes_base", "agrees_with_trainer", "held_out_loss"]

AT_ONCE = 4
"""Sequences to score together: who asks for an answer meanwhile waits for these at most."""
CALLERS_FAULT = 500
"""Errors of a lower status would come again."""
CHANCE = 2.0
"""Standard errors by which a loss may be worse without being worse for sure."""
SURE, SURE_OF = 3.0, 8
"""Standard errors by which it is surely not worse, on so many examples: the rest tell no more."""
FLOORS = {"bfloat16": 0.05}
"""By what the engine computes in."""
FLOOR = 0.005


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds, in nats. `rules_for` makes them."""

    margin: float = 0.0
    """By how much the held-out loss may be worse than the base's."""
    floor: float = FLOOR
    """Mean differences between trainer and engine that are always allowed."""
    base_gaps: float = 3.0
    """Times the base's own difference between the two, which is allowed too."""
    effect: float = 1e-4
    """An adapter that changes no log-probability by more changes nothing."""


class Check(msgspec.Struct, frozen=True):
    """One finding; `skipped` when there was nothing to judge by, and why."""

    name: CheckName
    outcome: Literal["passed", "failed", "skipped"]
    message: str
    figures: dict[str, float | None] = {}


class Verdict(msgspec.Struct, frozen=True):
    """Every check that was made."""

    passed: bool
    checks: list[Check]

    @property
    def reason(self) -> str:
        """Say what failed, with the figures."""
        return "; ".join(
            f"{one.name}: {one.message}" for one in self.checks if one.outcome == "failed"
        )

    def report(self) -> dict[str, Any]:
        """Give it as revisions keep it."""
        report: dict[str, Any] = msgspec.to_builtins(self)
        return report | {"reason": self.reason or None}


def rules_for(compute_dtype: str, margin: float) -> Rules:
    """Make the rules for an engine that computes in `compute_dtype`."""
    return Rules(margin=margin, floor=FLOORS.get(compute_dtype, FLOOR))


async def examine(
    engine: Engine, ref: RevisionRef, probes: Probes, rules: Rules, base: Scores | None = None
) -> Verdict:
    """Have the engine load and score a revision, and judge it by `base`, the base's own scores.

    Raises EngineUnavailable and other errors that are not the revision's: it was not judged then.
    """
    # First, so that what is wrong with the probes is never taken for a fault of the revision's.
    base = await score(engine, None, probes) if base is None else base
    try:
        adapter = await score(engine, ref, probes, partial(is_sure, probes, base, rules=rules))
    except ServiceError as fault:
        if fault.status >= CALLERS_FAULT:
            raise
        return verdict([Check("loads", "failed", fault.message)])
    return judge(probes, base, adapter, rules)


def sequences_of(probes: Probes) -> list[list[int]]:
    """List what is scored: the probes, then the held-out examples."""
    held_out = [example.tokens for example in probes.held_out.examples]
    return [*(probe.tokens for probe in probes.probes), *held_out]


async def score(
    engine: Engine,
    ref: RevisionRef | None,
    probes: Probes,
    is_enough: Callable[[Scores], bool] = lambda _: False,
) -> Scores:
    """Have the engine score a revision, or the base, until it is enough.

    Raises what `Engine.score` does.
    """
    sequences = sequences_of(probes)
    scores: list[list[float]] = []
    for group in range(0, max(1, len(sequences)), AT_ONCE):
        scores += await engine.score(ref, sequences[group : group + AT_ONCE])
        if is_enough(scores):
            break
    return scores


def is_sure(probes: Probes, base: Scores, adapter: Scores, rules: Rules) -> bool:
    """Tell whether the scores of the adapter that there are leave no doubt of its loss. Pure."""
    count = len(probes.probes)
    held_out = _first(probes.held_out, len(adapter) - count)
    if len(held_out.examples) < SURE_OF:
        return False
    found = held_out_losses(held_out, base[count:], adapter[count:])
    return found is not None and (found.adapter + SURE * found.error <= found.base + rules.margin)


def judge(probes: Probes, base: Scores, adapter: Scores, rules: Rules) -> Verdict:
    """Judge by the engine's scores of probes and held-out examples, in this order. Pure.

    There may be fewer of the adapter, if those were enough.
    """
    count, base = len(probes.probes), base[: len(adapter)]
    checks = [Check("loads", "passed", "the serving engine has loaded it"), _finite(adapter)]
    if checks[-1].outcome == "passed":
        checks += [
            _changes(base, adapter, rules, blank=probes.blank),
            _agrees(probes.probes, base[:count], adapter[:count], rules),
            _held_out(
                _first(probes.held_out, len(adapter) - count), base[count:], adapter[count:], rules
            ),
        ]
    return verdict(checks)


def verdict(checks: list[Check]) -> Verdict:
    """Pass what fails in nothing."""
    return Verdict(all(one.outcome != "failed" for one in checks), checks)


def _first(held_out: HeldOut, count: int) -> HeldOut:
    """Take the first examples; of preferences, whole pairs."""
    whole = count if held_out.beta is None else count - count % 2
    return msgspec.structs.replace(held_out, examples=held_out.examples[: max(0, whole)])


def _finite(scores: Scores) -> Check:
    odd = sum(not isfinite(value) for each in scores for value in each)
    total = sum(map(len, scores))
    message = f"{odd} of {total} log-probabilities are not finite numbers"
    return _check("finite", odd == 0, message, odd=odd, tokens=total)


def _changes(base: Scores, adapter: Scores, rules: Rules, *, blank: bool) -> Check:
    most = max(map(abs, differences(base, adapter)), default=0.0)
    if blank:
        return _check("changes_base", False, "every B of it is zero: it is the base", effect=most)
    message = f"it changes a log-probability of the base's by at most {most:.3g}"
    return _check("changes_base", most > rules.effect, message, effect=most, floor=rules.effect)


def _agrees(probes: Sequence[Probe], base: Scores, adapter: Scores, rules: Rules) -> Check:
    if not probes or not all(probe.adapter for probe in probes):
        return Check("agrees_with_trainer", "skipped", "it was not trained here")
    of_base = gap(base, [probe.base for probe in probes])
    found = gap(adapter, [probe.adapter for probe in probes])
    allowed = max(rules.floor, rules.base_gaps * of_base)
    message = (
        f"the engine's log-probabilities differ from the trainer's by {found:.3g} on average; "
        f"{allowed:.3g} is allowed"
    )
    figures = {"difference": found, "allowed": allowed, "difference_of_base": of_base}
    return _check("agrees_with_trainer", found <= allowed, message, **figures)


def _held_out(held_out: HeldOut, base: Scores, adapter: Scores, rules: Rules) -> Check:
    found = held_out_losses(held_out, base, adapter)
    if found is None:
        return Check("held_out_loss", "skipped", "there is no loss to compare with the base's")
    allowed = rules.margin + CHANCE * found.error
    examples = len(held_out.examples) // (1 if held_out.beta is None else 2)
    message = (
        f"the loss on {examples} {held_out.source} examples is {found.adapter:.4g} and the base's "
        f"is {found.base:.4g}; {allowed:.3g} more is allowed"
    )
    figures = {"loss": found.adapter, "loss_of_base": found.base, "allowed": allowed}
    figures |= {"margin": rules.margin, "standard_error": found.error, "examples": examples}
    return _check("held_out_loss", found.adapter - found.base <= allowed, message, **figures)


def _check(name: CheckName, passed: bool, message: str, **figures: float) -> Check:
    # There is no infinity in JSON.
    told = {key: value if isfinite(value) else None for key, value in figures.items()}
    return Check(name, "passed" if passed else "failed", message, told)
