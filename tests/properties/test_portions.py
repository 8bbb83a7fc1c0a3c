"""However processes draw, use and give back: never more than the limit, and nothing is lost."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from service.tenants.portions import Standing, duration, portion, surplus

limits = st.integers(1, 10_000)
amounts = st.integers(0, 2_000)


@given(limits, st.integers(-5, 12_000), st.integers(1, 2_000))
def test_a_portion_is_enough_or_nothing_and_never_more_than_is_left(
    limit: int, given: int, lack: int
) -> None:
    drawn = portion(limit, given, lack)
    assert drawn == 0 or lack <= drawn <= limit - given
    assert (drawn == 0) == (lack > limit - given)


@dataclass
class Shared:
    """What a database holds of a window, and what its processes have ready and have used."""

    limit: int
    given: int = 0
    ready: list[int] = field(default_factory=lambda: [0] * 4)
    used: int = 0

    def take(self, process: int, amount: int) -> bool:
        if self.ready[process] < amount:
            drawn = portion(self.limit, self.given, amount - self.ready[process])
            self.given += drawn
            self.ready[process] += drawn
        if self.ready[process] < amount:
            return False
        self.ready[process] -= amount
        self.used += amount
        return True

    def settle(self, process: int, *, idle: bool) -> None:
        ready = self.ready[process]
        extra = ready if idle else surplus(self.limit, ready)
        self.ready[process] -= extra
        self.given -= extra


steps = st.lists(
    st.tuples(st.integers(0, 3), amounts, st.sampled_from(["take", "trim", "idle"])), max_size=60
)


@given(limits, steps)
def test_processes_together_never_use_more_than_the_limit(
    limit: int, steps: list[tuple[int, int, str]]
) -> None:
    shared = Shared(limit)
    for process, amount, what in steps:
        if what == "take":
            shared.take(process, amount)
        else:
            shared.settle(process, idle=what == "idle")
        assert shared.given <= limit
        assert shared.used + sum(shared.ready) == shared.given


@given(limits, steps)
def test_what_lies_unused_is_anybodys_again(limit: int, steps: list[tuple[int, int, str]]) -> None:
    shared = Shared(limit)
    for process, amount, _ in steps:
        shared.take(process, amount)
    for process in range(3):
        shared.settle(process, idle=True)
    assert shared.take(3, limit - shared.used)


@given(limits)
def test_requests_are_mostly_answered_without_a_draw(limit: int) -> None:
    shared, draws = Shared(limit), 0
    for _ in range(limit):
        draws += shared.ready[0] == 0
        assert shared.take(0, 1)
    assert draws <= 16 + 8 * max(1, limit.bit_length())


def test_times_are_written_as_openai_writes_them() -> None:
    texts = ["17ms", "1s", "8.64s", "1m0s", "6m12s", "1440m0s"]
    assert [duration(t) for t in (0.017, 1, 8.64, 60, 372, 86400)] == texts


def test_what_is_left_is_never_told_below_nothing() -> None:
    assert Standing("tokens", 10, -3, 2.5).headers == {
        "x-ratelimit-limit-tokens": "10",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "2.5s",
    }
