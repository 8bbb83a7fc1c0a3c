"""Quotas compared: what fits is let in to the last, and what is not asked for never matters."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from service.tenants.limits import Limits
from service.tenants.quotas import Use, first_excess, month_of
from service.tenants.usage_counters import day_of

small = st.integers(0, 5)
uses = st.builds(Use, **dict.fromkeys(Use.__struct_fields__, small))
limited = st.builds(Limits, **dict.fromkeys(Use.__struct_fields__, st.none() | small))


@given(limited, uses, uses)
def test_what_is_let_in_stays_within_every_limit_that_it_is_asked_of(
    limits: Limits, used: Use, asked: Use
) -> None:
    excess = first_excess(limits, used, asked)
    sums = {name: getattr(used, name) + more for name, more in asdict(asked).items() if more}
    bounded = [name for name in sums if getattr(limits, name) is not None]
    over = [name for name in bounded if sums[name] > getattr(limits, name)]
    assert (excess is None) == (not over)
    if excess is not None:
        assert excess.quota in over
        assert all(str(figure) in excess.message for figure in (excess.limit, excess.used))


@given(limited, uses)
def test_who_asks_for_nothing_is_let_in_even_over_a_lowered_limit(
    limits: Limits, used: Use
) -> None:
    assert first_excess(limits, replace(used, files=99), Use()) is None


@given(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))
def test_days_and_months_begin_in_utc(at: datetime) -> None:
    day = datetime.fromtimestamp(day_of(at.timestamp()), UTC)
    month = datetime.fromtimestamp(month_of(at.timestamp()), UTC)
    assert (day.date(), day.hour, day.minute) == (at.date(), 0, 0)
    assert (month.year, month.month, month.day, month.hour) == (at.year, at.month, 1, 0)
