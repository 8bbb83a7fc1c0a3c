"""The publish gate's verdict, for any figures."""

from math import inf, nan

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.base.probes import HeldOut, Measured, Probe, Probes
from service.serving.gate import (
    FLOOR,
    SURE_OF,
    Check,
    Rules,
    Verdict,
    is_sure,
    judge,
)
from service.serving.losses import gap, held_out_losses
from tests.strategies import Scored, scored_examples

RULES = Rules()


def outcomes(verdict: Verdict) -> dict[str, str]:
    return {check.name: check.outcome for check in verdict.checks}


def check(verdict: Verdict, name: str) -> Check:
    [found] = [check for check in verdict.checks if check.name == name]
    return found


def shifted(scores: list[list[float]], by: float) -> list[list[float]]:
    return [[value + by for value in each] for each in scores]


def probes(scored: Scored, *, trained: bool = True, **given: object) -> Probes:
    """Probes that the trainer scored exactly as the engine does."""
    made = [
        Probe(tokens, base, adapter) if trained else Probe(tokens)
        for tokens, base, adapter in zip(scored.tokens, scored.base, scored.adapter, strict=True)
    ]
    return Probes(made, **given)  # type: ignore[arg-type]


@given(scored_examples())
def test_what_differs_from_the_base_and_agrees_with_its_trainer_passes(scored: Scored) -> None:
    verdict = judge(probes(scored), scored.base, shifted(scored.base, 0.5), RULES)
    assert outcomes(verdict)["changes_base"] == "passed"
    exact = judge(probes(scored), scored.base, scored.adapter, RULES)
    assert outcomes(exact)["agrees_with_trainer"] == "passed"
    assert exact.passed == (outcomes(exact)["changes_base"] == "passed")


@given(scored_examples(), st.floats(-9e-5, 9e-5))
def test_what_changes_nothing_is_rejected_for_that(scored: Scored, noise: float) -> None:
    verdict = judge(probes(scored), scored.base, shifted(scored.base, noise), RULES)
    assert not verdict.passed
    assert "changes_base" in verdict.reason
    blank = judge(probes(scored, blank=True), scored.base, shifted(scored.base, 0.5), RULES)
    assert outcomes(blank)["changes_base"] == "failed"


@given(scored_examples(), st.floats(0, 3), st.floats(0, 10))
def test_as_much_is_allowed_as_three_times_the_bases_own_difference_or_the_floor(
    scored: Scored, of_base: float, of_adapter: float
) -> None:
    allowed = max(FLOOR, 3 * of_base)
    assume(abs(allowed - of_adapter) > 1e-6)
    engine = shifted(scored.base, of_base), shifted(scored.adapter, of_adapter)
    verdict = judge(probes(scored), *engine, RULES)
    assert outcomes(verdict)["agrees_with_trainer"] == (
        "passed" if of_adapter < allowed else "failed"
    )
    figures = check(verdict, "agrees_with_trainer").figures
    assert figures["difference"] == pytest.approx(of_adapter, abs=1e-9)
    assert figures["allowed"] == pytest.approx(allowed, abs=1e-9)


@given(scored_examples())
def test_what_was_not_trained_here_is_not_compared_with_a_trainer(scored: Scored) -> None:
    verdict = judge(probes(scored, trained=False), scored.base, scored.adapter, RULES)
    assert outcomes(verdict)["agrees_with_trainer"] == "skipped"


@given(scored_examples(), st.sampled_from([nan, inf, -inf]), st.data())
def test_a_score_that_is_no_number_is_rejected_and_fits_into_json(
    scored: Scored, odd: float, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(scored.adapter) - 1))
    scored.adapter[place][0] = odd
    verdict = judge(probes(scored, trained=False), scored.base, scored.adapter, RULES)
    assert outcomes(verdict) == {"loads": "passed", "finite": "failed"}
    assert all(value is not None for value in check(verdict, "finite").figures.values())


@given(scored_examples(), st.floats(-2, 2), st.floats(0, 1))
def test_a_loss_that_is_worse_all_over_is_worse_by_as_much(
    scored: Scored, worse: float, margin: float
) -> None:
    assume(abs(worse - margin) > 1e-6)
    assume(sum(map(len, scored.base)) > 1)
    examples = [Measured(tokens, list(range(1, len(tokens)))) for tokens in scored.tokens]
    given_ = Probes([], HeldOut(examples))
    verdict = judge(given_, scored.base, shifted(scored.base, -worse), Rules(margin=margin))
    found = check(verdict, "held_out_loss")
    assert found.outcome == ("passed" if worse < margin else "failed")
    assert (found.figures["loss"] or 0) - (found.figures["loss_of_base"] or 0) == pytest.approx(
        worse, abs=1e-6
    )


@given(scored_examples(), st.floats(0.01, 2))
def test_preferences_are_held_to_the_bases_loss_which_is_ln_2(scored: Scored, beta: float) -> None:
    both = [tokens for tokens in scored.tokens for _ in range(2)]
    examples = [Measured(tokens, list(range(1, len(tokens)))) for tokens in both]
    base = [each for each in scored.base for _ in range(2)]
    held_out = HeldOut(examples, beta=beta)
    unmoved = held_out_losses(held_out, base, base)
    assert unmoved is not None
    assert unmoved.adapter == pytest.approx(unmoved.base) == pytest.approx(0.6931, abs=1e-3)
    signs = [1.0, -1.0] * len(scored.tokens)
    liked = [shifted([each], sign)[0] for each, sign in zip(base, signs, strict=True)]
    disliked = [shifted([each], -sign)[0] for each, sign in zip(base, signs, strict=True)]
    better, worse = (held_out_losses(held_out, base, scores) for scores in (liked, disliked))
    assert better is not None
    assert worse is not None
    assert better.adapter < unmoved.adapter < worse.adapter
    assert (better.error == inf) == (len(scored.tokens) == 1)


def test_few_tokens_that_are_a_little_worse_say_nothing_and_many_do() -> None:
    def verdict(count: int) -> Verdict:
        examples = [Measured([1, 2, 3], [1, 2])] * count
        adapter = [[-2.5, -1.7]] * count
        return judge(Probes([], HeldOut(examples)), [[-2.0, -2.0]] * count, adapter, RULES)

    assert not verdict(100).passed
    assert verdict(2).passed
    assert "loss on 100 validation examples is 2.1 and the base's is 2;" in verdict(100).reason


def test_a_diverged_adapter_is_rejected_on_a_single_example() -> None:
    example = Measured([1, 2, 3, 4], [1, 2, 3])
    held_out = HeldOut([example], "training")
    verdict = judge(Probes([], held_out), [[-2.0, -3.0, -1.0]], [[-30.0, -55.0, -20.0]], RULES)
    assert outcomes(verdict)["held_out_loss"] == "failed"


@given(
    st.lists(st.lists(st.floats(-1, 1), min_size=3, max_size=3), min_size=1, max_size=32),
    st.floats(-1, 2),
    st.integers(1, 32),
    st.sampled_from([None, 0.1]),
    st.floats(0, 1),
)
def test_it_is_never_sure_of_a_loss_that_is_too_high_or_of_too_few_examples(
    noise: list[list[float]], better: float, count: int, beta: float | None, margin: float
) -> None:
    examples = [Measured([1, 2, 3, 4], [1, 2, 3])] * len(noise)
    base = [[-9.0] * 3] * len(noise)
    adapter = [[-9.0 + better + by for by in each] for each in noise][:count]
    given_, rules = Probes([], HeldOut(examples, beta=beta)), Rules(margin=margin)
    sure = is_sure(given_, base, adapter, rules)
    found = check(judge(given_, base, adapter, rules), "held_out_loss")
    if beta is not None and len(adapter) < 2:
        assert (found.outcome, sure) == ("skipped", False)
        return
    seen = (found.figures["examples"] or 0) * (1 if beta is None else 2)
    below = (found.figures["loss"] or 0) <= (found.figures["loss_of_base"] or 0) + margin
    assert not sure or (found.outcome == "passed" and seen >= SURE_OF and below)


def test_it_is_sure_of_what_helps_everywhere_and_not_of_what_helps_here_and_there() -> None:
    examples, base = [Measured([1, 2, 3], [1, 2])] * 32, [[-3.0, -3.0]] * 32
    given_ = Probes([], HeldOut(examples))
    assert is_sure(given_, base, [[-1.0, -1.1]] * SURE_OF, RULES)
    assert not is_sure(given_, base, [[-1.0, -1.1]] * (SURE_OF - 1), RULES)
    assert not is_sure(given_, base, [[-1.0, -1.1], [-4.0, -4.1]] * SURE_OF, RULES)
    assert not is_sure(given_, base, [[-1.0, nan]] * SURE_OF, RULES)


@given(scored_examples())
def test_a_gap_is_symmetric_and_zero_only_between_equals(scored: Scored) -> None:
    assert gap(scored.base, scored.adapter) == gap(scored.adapter, scored.base)
    assert gap(scored.base, scored.base) == 0
