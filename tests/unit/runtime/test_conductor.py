"""Turns on the base: generation first, and training's share of the time all the same."""

import itertools
import threading
from collections.abc import Callable

import pytest

from service.runtime.conductor import Conductor
from service.runtime.shares import Shares
from service.runtime.stalls import FEWEST, Stalls


class Clock:
    """Goes on when work is done, and only then."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Answers:
    """Wants turns of some length until it has had enough of them."""

    answering = True

    def __init__(self, clock: Clock, seconds: float, turns: int) -> None:
        self.clock, self.seconds, self.left = clock, seconds, turns
        self.ends: list[float] = []

    @property
    def wanted(self) -> bool:
        return self.left > 0

    def turn(self) -> bool:
        self.clock.now += self.seconds
        self.left -= 1
        self.ends.append(self.clock.now)
        return True


class Learns:
    """Rows of ten stretches, with a pause after each; a stretch takes 0.1 ms a token."""

    def __init__(self, clock: Clock, rows: int, done: Callable[[], None]) -> None:
        self.clock, self.left, self.done = clock, rows, done
        self.most_tokens = self.row_tokens = 0
        self.rows: list[int] = []
        self.seconds = 0.0
        self.pause: Callable[[], None] = lambda: None

    @property
    def wanted(self) -> bool:
        return self.left > 0

    def turn(self) -> bool:
        self.row_tokens = min(1000, self.most_tokens)
        self.rows.append(self.row_tokens)
        for _ in range(10):
            self.clock.now += self.row_tokens / 10_000
            self.seconds += self.row_tokens / 10_000
            self.pause()
        self.left -= 1
        if not self.left:
            self.done()
        return True


def together(share: float, stall: float, *, turns: int, rows: int) -> tuple[Answers, Learns]:
    clock, finished = Clock(), threading.Event()
    answers = Answers(clock, 0.05, turns)

    def done() -> None:
        answers.left = 0
        finished.set()

    learns = Learns(clock, rows, done)
    conductor = Conductor(Shares(share), Stalls(stall), 1000, clock=clock)
    learns.pause = conductor.pause
    conductor.start(answers, learns)
    assert finished.wait(30)
    conductor.stop()
    return answers, learns


def test_generation_goes_first_where_training_has_no_share() -> None:
    answers, learns = together(0.0, 10.0, turns=40, rows=3)
    # The first turn is generation's, and a stretch later come all the others.
    assert answers.ends[-1] == pytest.approx(40 * 0.05, abs=0.11)
    assert learns.rows == [FEWEST, 1000, 1000]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_training_keeps_its_share_while_generation_always_wants_more(share: float) -> None:
    answers, learns = together(share, 10.0, turns=10**6, rows=20)
    spent = len(answers.ends) * 0.05
    assert learns.seconds / (learns.seconds + spent) == pytest.approx(share, abs=0.03)


def test_generation_waits_for_one_stretch_and_what_training_is_owed() -> None:
    answers, _ = together(0.2, 10.0, turns=10**6, rows=20)
    gaps = [b - a for a, b in zip(answers.ends, answers.ends[1:], strict=False)]
    assert max(gaps) <= 0.05 + 0.1 + 1e-9


def test_rows_shrink_until_a_stretch_is_short_enough() -> None:
    _, learns = together(0.2, 0.03, turns=10**6, rows=20)
    assert learns.rows[0] == FEWEST
    assert set(learns.rows[1:]) <= {299, 300}


def test_rows_stay_as_they_are_for_scores_that_nobody_waits_for() -> None:
    clock, finished = Clock(), threading.Event()
    scores = Answers(clock, 0.05, 30)
    scores.answering = False
    learns = Learns(clock, 5, finished.set)
    conductor = Conductor(Shares(0.2), Stalls(0.03), 1000, clock=clock)
    learns.pause = conductor.pause
    conductor.start(scores, learns)
    assert finished.wait(30)
    conductor.stop()
    assert learns.rows == [1000] * 5
    assert scores.left < 30


def test_rows_grow_once_nobody_asks_and_again_when_nobody_did_for_long() -> None:
    clock, finished = Clock(), threading.Event()
    answers, learns = Answers(clock, 0.05, 1), Learns(clock, 30, finished.set)
    conductor = Conductor(Shares(0.0), Stalls(1e-9), 1000, calm_tokens=500, clock=clock)
    learns.pause = conductor.pause
    conductor.start(answers, learns)
    assert finished.wait(30)
    conductor.stop()
    assert [size for size, _ in itertools.groupby(learns.rows)] == [FEWEST, 500, 1000]


def test_rows_never_shrink_to_nothing() -> None:
    stalls = Stalls(1e-9)
    stalls.went(1.0, 100)
    assert stalls.tokens(1000) == FEWEST
    assert stalls.tokens(5) == 5


def test_a_row_that_was_disturbed_shrinks_no_other() -> None:
    stalls = Stalls(0.01)
    for longest in (1.0, 0.01, 0.01, 1.0):
        stalls.went(longest, 1000)
    assert stalls.tokens(10**6) == pytest.approx(1000, abs=1)


def test_without_a_limit_a_stretch_is_half_of_a_generation_step() -> None:
    stalls = Stalls()
    for seconds in (0.004, 0.004, 0.2, 0.004):
        stalls.generated(seconds)
    assert stalls.seconds == 0.002
    stalls.went(0.001, 500)
    assert stalls.tokens(10**6) == pytest.approx(1000, abs=1)


def test_rows_are_as_long_as_they_may_be_where_nobody_generates() -> None:
    clock, finished = Clock(), threading.Event()
    learns = Learns(clock, 3, finished.set)
    conductor = Conductor(Shares(0.2), Stalls(1e-9), 1000, clock=clock)
    conductor.start(None, learns)
    assert finished.wait(30)
    conductor.stop()
    assert learns.rows == [1000] * 3


def test_other_threads_wait_while_generation_goes_on_but_for_their_share() -> None:
    turns, goes_on = threading.Semaphore(0), threading.Event()

    class Slow(Answers):
        def turn(self) -> bool:
            goes_on.set()
            turns.acquire()
            return super().turn()

    clock = Clock()
    answers = Slow(clock, 0.1, 3)
    for share, waits in ((0.0, True), (0.999, False)):
        answers.left = 3
        conductor = Conductor(Shares(share), Stalls(1.0), 10)
        conductor.give_way()
        conductor.start(answers, None)
        assert goes_on.wait(30)
        other = threading.Thread(target=conductor.give_way)
        other.start()
        if not waits:
            other.join(30)
        assert other.is_alive() == waits
        turns.release(3)
        other.join(30)
        assert not other.is_alive()
        conductor.stop()
        goes_on.clear()


def test_rows_are_alike_in_every_run_while_nobody_asks() -> None:
    clock, finished = Clock(), threading.Event()
    learns = Learns(clock, 10, finished.set)
    conductor = Conductor(Shares(0.2), Stalls(0.001), 100, calm_tokens=40, clock=clock)
    conductor.start(Answers(clock, 0.05, 0), learns)
    assert finished.wait(30)
    conductor.stop()
    assert learns.rows == [100] * 10


def test_a_fault_ends_the_thread_and_is_told() -> None:
    class Broken(Answers):
        def turn(self) -> bool:
            raise OSError("gone")

    conductor = Conductor(Shares(0.2), Stalls(1.0), 10)
    conductor.start(Broken(Clock(), 0.1, 1), None)
    assert isinstance(conductor.ended.exception(30), OSError)


def test_who_is_woken_has_a_turn() -> None:
    clock, had = Clock(), threading.Event()
    answers = Answers(clock, 0.1, 0)
    conductor = Conductor(Shares(0.2), Stalls(1.0), 10, clock=clock)

    class Told(Answers):
        def turn(self) -> bool:
            had.set()
            return super().turn()

    answers = Told(clock, 0.1, 0)
    conductor.start(answers, None)
    answers.left = 1
    conductor.wake()
    assert had.wait(30)
    conductor.stop()
