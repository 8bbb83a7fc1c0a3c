"""Counters into buckets by day. Pure."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

import msgspec

from service.errors import BadRequest
from service.tenants.usage_counters import DAY_SECONDS, Amount, Kind, day_of
from service.tenants.usage_schemas import (
    GenerationUsage,
    GroupBy,
    TrainingUsage,
    UsageBucket,
    UsagePage,
)


class Used(msgspec.Struct, frozen=True):
    """One counter of one day."""

    day: int
    kind: Kind
    amount: Amount
    api_key_id: str | None
    model: str
    adapter: str | None
    revision: str | None
    job_id: str | None


_Group = tuple[Kind, tuple[str | None, ...]]


def days_of(start: int, end: int, page: str | None, limit: int) -> range:
    """Find the first seconds of a page's days. Raises BadRequest."""
    if end <= start:
        raise BadRequest("'end_time' must be after 'start_time'.", param="end_time")
    every = range(day_of(start), end, DAY_SECONDS)
    if page is None:
        return every[:limit]
    # No int is made of what is longer than any day.
    day = int(page) if page.isdecimal() and len(page) <= len(str(end)) else None
    if day is None or str(day) != page or day not in every:
        raise BadRequest("'page' is none of this query's: take it from 'next_page'.", param="page")
    return every[every.index(day) :][:limit]


def page_of(
    used: Iterable[Used], days: range, end: int, group_by: Collection[GroupBy]
) -> UsagePage:
    """Add up each day's counters by what they are grouped by."""
    sums: dict[int, defaultdict[_Group, Amount]] = {day: defaultdict(Amount) for day in days}
    for one in used:
        sums[one.day][one.kind, _names(one, group_by)] += one.amount
    following = days[-1] + DAY_SECONDS
    return UsagePage(
        object="page",
        data=[
            UsageBucket(
                object="bucket",
                start_time=day,
                end_time=day + DAY_SECONDS,
                results=[_result(*group, amount) for group, amount in groups.items()],
            )
            for day, groups in sums.items()
        ],
        has_more=following < end,
        next_page=str(following) if following < end else None,
    )


_NAMES: Sequence[GroupBy] = ("api_key_id", "model", "adapter", "revision", "job_id")


def _names(one: Used, group_by: Collection[GroupBy]) -> tuple[str | None, ...]:
    return tuple(getattr(one, name) if name in group_by else None for name in _NAMES)


def _result(
    kind: Kind, names: tuple[str | None, ...], amount: Amount
) -> GenerationUsage | TrainingUsage:
    key, model, adapter, revision, job = names
    if kind == "trained":
        return TrainingUsage(
            api_key_id=key,
            model=model,
            adapter=adapter,
            revision=revision,
            trained_tokens=amount.output_tokens,
            job_id=job,
        )
    return GenerationUsage(
        api_key_id=key,
        model=model,
        adapter=adapter,
        revision=revision,
        input_tokens=amount.input_tokens,
        output_tokens=amount.output_tokens,
        num_model_requests=amount.requests,
        project_id=None,
        user_id=None,
        batch=None,
        service_tier=None,
    )
