"""When a run that no longer gets better ends, and with which of its evaluations."""

from hypothesis import given
from hypothesis import strategies as st

from service.training.early_stopping import Watch, is_over, watch
from service.training.spec import EarlyStopping

losses = st.lists(st.floats(0, 10), min_size=1, max_size=40)
rules = st.builds(
    EarlyStopping, patience=st.integers(1, 8), min_delta=st.just(0.0) | st.floats(0, 3)
)


def ended(rule: EarlyStopping, measured: list[float]) -> tuple[int, Watch]:
    """Go through evaluations, numbered from 1, until it is over or there are no more."""
    seen = watch(rule, None, 1, measured[0])
    for step, loss in enumerate(measured[1:], 2):
        if is_over(rule, seen):
            return step - 1, seen
        seen = watch(rule, seen, step, loss)
    return len(measured), seen


def improvements(rule: EarlyStopping, measured: list[float]) -> list[int]:
    """Say anew, from the words: each falls by more than min_delta below the one before."""
    found: list[int] = []
    for step, loss in enumerate(measured, 1):
        if not found or loss < measured[found[-1] - 1] - rule.min_delta:
            found.append(step)
    return found


@given(rules, losses)
def test_it_ends_when_the_last_improvement_is_patience_evaluations_ago(
    rule: EarlyStopping, measured: list[float]
) -> None:
    step, seen = ended(rule, measured)
    last = improvements(rule, measured[:step])[-1]
    assert is_over(rule, seen) == (step - last >= rule.patience)
    assert seen.waited == step - last
    # And not later than that.
    assert step - last <= rule.patience


@given(rules, losses)
def test_the_best_is_the_first_of_the_lowest(rule: EarlyStopping, measured: list[float]) -> None:
    step, seen = ended(rule, measured)
    assert seen.best == min(measured[:step])
    assert seen.best_step == measured.index(seen.best) + 1


@given(rules, losses)
def test_more_patience_never_ends_sooner_nor_with_worse(
    rule: EarlyStopping, measured: list[float]
) -> None:
    longer = EarlyStopping(patience=rule.patience + 1, min_delta=rule.min_delta)
    (step, seen), (later, better) = ended(rule, measured), ended(longer, measured)
    assert later >= step
    assert better.best <= seen.best


def test_small_steps_down_count_once_they_add_up() -> None:
    rule = EarlyStopping(patience=3, min_delta=0.25)
    assert not is_over(rule, ended(rule, [2.0, 1.9, 1.8, 1.7, 1.6, 1.5])[1])
    assert ended(rule, [2.0, 1.9, 1.85, 1.8, 1.0]) == (4, Watch(2.0, 1.8, 4, 3))


def test_without_a_rule_or_an_evaluation_it_is_never_over() -> None:
    assert not is_over(None, Watch(1.0, 1.0, 1, 100))
    assert not is_over(EarlyStopping(patience=1), None)
