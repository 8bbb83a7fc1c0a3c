"""Whoever asks when: nobody waits for ever, training keeps its share, and nothing flaps."""

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.runtime.sleeping import Patience, Sleeping, State, Wants

TICK = 0.5
PATIENCE = Patience(idle=4.0, most_idle=32.0, turn=10.0)


class Moment(msgspec.Struct, frozen=True):
    """One tick of a simulated card."""

    at: float
    state: State
    wants: Wants


def simulate(
    arrivals: Sequence[int], jobs: Sequence[bool], share: float, *, answer_ticks: int = 3
) -> list[Moment]:
    """Let so many requests arrive at each tick; each takes some ticks to answer while awake."""
    sleeping, moments = Sleeping(share, 0.0, PATIENCE), list[Moment]()
    waiting, running, state = 0, list[int](), sleeping.state
    for number, (arriving, there) in enumerate(zip(arrivals, jobs, strict=True)):
        waiting += arriving
        running = [left - 1 for left in running if left > 1]
        if state == "awake":
            running += [answer_ticks] * waiting
            waiting = 0
        wants = Wants(waiting, len(running), there)
        state = sleeping.next(number * TICK, wants)
        moments.append(Moment(number * TICK, state, wants))
    return moments


shares = st.floats(0, 0.9)
stretches = st.tuples(st.sampled_from([0, 0, 1, 3]), st.booleans(), st.integers(1, 60))
traffic = st.lists(stretches, min_size=1, max_size=6).map(
    lambda drawn: (
        [arriving for arriving, _, ticks in drawn for _ in range(ticks)],
        [jobs for _, jobs, ticks in drawn for _ in range(ticks)],
    )
)
"""What arrives at each tick, and whether there are jobs then."""


@given(traffic, shares)
def test_it_never_sleeps_over_an_answer_nor_without_a_job(
    given_: tuple[list[int], list[bool]], share: float
) -> None:
    for moment in simulate(*given_, share):
        if moment.state == "asleep":
            assert not moment.wants.running
            assert moment.wants.jobs
        if not moment.wants.jobs:
            assert moment.state == "awake"


@given(traffic, shares)
def test_a_request_waits_for_one_turn_of_training_at_most(
    given_: tuple[list[int], list[bool]], share: float
) -> None:
    since: float | None = None
    for moment in simulate(*given_, share):
        waits = moment.state == "asleep" and moment.wants.waiting > 0
        since = (moment.at if since is None else since) if waits else None
        if since is not None:
            # What training is owed grows while the last answers end.
            worth = share / (1 - share)
            assert moment.at - since <= PATIENCE.turn + worth * 6 * TICK + 2 * TICK


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.8])
def test_training_keeps_its_share_under_endless_requests(share: float) -> None:
    moments = simulate([1] * 2000, [True] * 2000, share)
    trained = sum(moment.state == "asleep" for moment in moments) / len(moments)
    turn = PATIENCE.turn / (2000 * TICK)
    assert share - 2 * turn - 0.02 <= trained <= share + 2 * turn + 0.06


def test_with_no_share_training_waits_until_nobody_asks() -> None:
    moments = simulate([1] * 500 + [0] * 20, [True] * 520, 0.0)
    assert {moment.state for moment in moments[:500]} == {"awake"}
    assert moments[-1].state == "asleep"


@given(traffic)
def test_it_falls_asleep_by_itself_only_after_a_silence(
    given_: tuple[list[int], list[bool]],
) -> None:
    asked = 0.0
    before: State = "awake"
    for moment in simulate(*given_, 0.0):
        if moment.wants.waiting or moment.wants.running:
            asked = moment.at
        if before == "awake" and moment.state != "awake":
            assert moment.at - asked >= PATIENCE.idle
        before = moment.state


def test_who_asks_shortly_after_each_sleep_makes_it_wait_longer_for_the_next() -> None:
    sleeping, now, silences = Sleeping(0.0, 0.0, PATIENCE), 0.0, []
    for _ in range(6):
        began = now
        while sleeping.next(now, Wants(0, 0, True)) == "awake":
            now += TICK
        silences.append(now - began)
        assert sleeping.next(now, Wants(0, 0, True)) == "asleep"
        now += TICK
        assert sleeping.next(now, Wants(1, 0, True)) == "awake"
    assert silences == sorted(silences)
    assert (silences[0], silences[-1]) == (PATIENCE.idle, PATIENCE.most_idle)
    # A sleep that lasted makes it forget.
    while sleeping.next(now, Wants(0, 0, True)) != "asleep":
        now += TICK
    now += 1000
    assert sleeping.next(now, Wants(1, 0, True)) == "awake"
    began = now
    while sleeping.next(now, Wants(0, 0, True)) == "awake":
        now += TICK
    assert now - began == PATIENCE.idle


def test_it_wakes_for_nobody_once_there_is_nothing_to_train() -> None:
    moments = simulate([0] * 40, [True] * 20 + [False] * 20, 0.2)
    assert moments[19].state == "asleep"
    assert moments[20].state == "awake"
