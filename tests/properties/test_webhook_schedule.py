"""Deliveries are tried ever later, for most of a day and no longer."""

from hypothesis import given
from hypothesis import strategies as st

from service.webhooks.schedule import DAY, DELAYS, delay

chances = st.floats(0, 1, exclude_max=True)


@given(st.lists(chances, min_size=len(DELAYS), max_size=len(DELAYS)))
def test_attempts_end_within_a_day_and_go_on_for_most_of_it(drawn: list[float]) -> None:
    waits = [delay(attempts, chance) for attempts, chance in enumerate(drawn, start=1)]
    total = sum(wait or 0 for wait in waits)
    assert None not in waits
    assert DAY * 0.9 < total < DAY


@given(st.integers(1, len(DELAYS) - 1), chances, chances)
def test_each_wait_is_longer_than_the_one_before(attempts: int, a: float, b: float) -> None:
    assert (delay(attempts, a) or 0) < (delay(attempts + 1, b) or 0)


@given(st.integers(len(DELAYS) + 1, 1000), chances)
def test_then_it_is_given_up(attempts: int, chance: float) -> None:
    assert delay(attempts, chance) is None
