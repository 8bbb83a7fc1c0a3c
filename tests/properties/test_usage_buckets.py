"""Usage by day: pages show each day once, and no token is lost or doubled by grouping."""

from collections.abc import Collection

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.errors import BadRequest
from service.tenants.usage_buckets import Used, days_of, page_of
from service.tenants.usage_counters import DAY_SECONDS, Amount, day_of
from service.tenants.usage_schemas import GroupBy, TrainingUsage
from tests.strategies import GROUPS, instants, used_on


@given(instants, st.integers(1, 40 * DAY_SECONDS), st.integers(1, 31))
def test_pages_show_every_day_of_the_time_asked_for_once(start: int, long: int, limit: int) -> None:
    end, shown, page = start + long, list[int](), None
    while True:
        days = days_of(start, end, page, limit)
        got = page_of([], days, end, ())
        shown += [bucket.start_time for bucket in got.data]
        page = got.next_page
        assert got.has_more == (page is not None)
        if page is None:
            break
    assert shown == list(range(shown[0], end, DAY_SECONDS))
    assert shown[0] <= start < shown[0] + DAY_SECONDS
    assert all(day % DAY_SECONDS == 0 for day in shown)


@given(instants, st.text(max_size=12))
def test_a_page_of_no_query_is_refused(start: int, page: str) -> None:
    assume(page != str(day_of(start)))
    with pytest.raises(BadRequest) as caught:
        days_of(start, start + 1, page, 7)
    assert caught.value.param == "page"


def test_an_end_before_the_start_is_refused() -> None:
    with pytest.raises(BadRequest) as caught:
        days_of(5, 5, None, 7)
    assert caught.value.param == "end_time"


@given(st.data(), st.lists(st.sampled_from(GROUPS), max_size=5))
def test_grouping_loses_and_doubles_nothing(
    data: st.DataObject, group_by: Collection[GroupBy]
) -> None:
    days = range(0, 3 * DAY_SECONDS, DAY_SECONDS)
    used: list[Used] = data.draw(st.lists(used_on(days)))
    page = page_of(used, days, days.stop, group_by)
    for bucket in page.data:
        mine = [one for one in used if one.day == bucket.start_time]
        trained = [r for r in bucket.results if isinstance(r, TrainingUsage)]
        generated = [r for r in bucket.results if not isinstance(r, TrainingUsage)]
        assert sum(r.trained_tokens for r in trained) == _sum(mine, "trained").output_tokens
        told = Amount(
            sum(r.num_model_requests for r in generated),
            sum(r.input_tokens for r in generated),
            sum(r.output_tokens for r in generated),
        )
        assert told == _sum(mine, "generated")
        for name in set(GROUPS) - set(group_by):
            assert all(getattr(result, name, None) is None for result in bucket.results)
        if not group_by:
            assert len(bucket.results) == len({one.kind for one in mine})


def _sum(used: list[Used], kind: str) -> Amount:
    return sum((one.amount for one in used if one.kind == kind), Amount())
