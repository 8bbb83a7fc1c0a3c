"""A job's life, whatever happens to it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.jobs.lifecycle import (
    TERMINAL,
    TRANSITIONS,
    Action,
    IllegalTransition,
    Standing,
    Status,
    apply,
    ask,
    is_terminal,
    put_down,
)

actions = st.sampled_from(Action)
statuses = st.sampled_from(Status)


class Life(RuleBasedStateMachine):
    """Applies any action at any time and remembers what a tenant could have seen."""

    def __init__(self) -> None:
        super().__init__()
        self.status = Status.QUEUED
        self.seen = [Status.QUEUED]

    @rule(action=actions)
    def happen(self, action: Action) -> None:
        if action in TRANSITIONS[self.status]:
            self.status = apply(self.status, action)
            self.seen.append(self.status)
        else:
            with pytest.raises(IllegalTransition):
                apply(self.status, action)

    @precondition(lambda self: not is_terminal(self.status))
    @rule()
    def can_always_be_cancelled(self) -> None:
        assert apply(self.status, Action.CANCEL) is Status.CANCELLED

    @invariant()
    def terminal_is_terminal(self) -> None:
        assert not any(status in TERMINAL for status in self.seen[:-1])

    @invariant()
    def only_a_running_job_succeeds(self) -> None:
        if self.status is Status.SUCCEEDED:
            assert self.seen[-2] is Status.RUNNING


TestLife = Life.TestCase

asked = st.sampled_from([Action.CANCEL, Action.PAUSE, Action.RESUME])


class Race(RuleBasedStateMachine):
    """A tenant asks while a runtime claims, puts down, ends and dies: every order of them."""

    def __init__(self) -> None:
        super().__init__()
        self.job = Standing(Status.QUEUED)
        self.cancelled = False

    @rule(action=asked)
    def tenant_asks(self, action: Action) -> None:
        before = self.job
        try:
            self.job = ask(before, action)
        except IllegalTransition:
            assert is_terminal(before.status) or before.cancelling
            return
        assert ask(self.job, action) == self.job, "asking twice is asking once"
        self.cancelled = self.cancelled or action is Action.CANCEL

    @precondition(lambda self: self.job.status is Status.QUEUED)
    @rule()
    def claimed(self) -> None:
        self.job = Standing(apply(self.job.status, Action.CLAIM))

    @precondition(lambda self: self.job.status is Status.RUNNING)
    @rule()
    def put_down(self) -> None:
        """At a step, at a shutdown, or by who finds it with a runtime that died."""
        before = self.job
        self.job = Standing(apply(before.status, put_down(before)))
        assert self.job.status is not Status.QUEUED or not before.pausing

    @precondition(lambda self: self.job.status is Status.RUNNING)
    @rule()
    def ended(self) -> None:
        late = self.job.cancelling
        self.job = Standing(apply(Status.RUNNING, Action.CANCEL if late else Action.SUCCEED))

    @invariant()
    def what_was_asked_for_is_only_open_while_somebody_trains(self) -> None:
        assert self.job.status is Status.RUNNING or not (self.job.cancelling or self.job.pausing)

    @invariant()
    def a_cancellation_is_never_taken_back(self) -> None:
        if self.cancelled:
            assert self.job.cancelling or self.job.status is Status.CANCELLED

    @invariant()
    def cancelling_wins_over_pausing(self) -> None:
        assert not (self.job.cancelling and self.job.pausing)


TestRace = Race.TestCase


@given(asked)
def test_what_a_tenant_asks_for_happens_at_once_while_nobody_trains(action: Action) -> None:
    for status in (Status.QUEUED, Status.PAUSED):
        assert (
            ask(Standing(status), action).status
            in {
                Action.CANCEL: {Status.CANCELLED},
                Action.PAUSE: {Status.PAUSED},
                Action.RESUME: {Status.QUEUED},
            }[action]
        )


@given(statuses, actions)
def test_the_table_decides_and_nothing_else(status: Status, action: Action) -> None:
    if action in TRANSITIONS[status]:
        assert apply(status.value, action) is TRANSITIONS[status][action]
    else:
        with pytest.raises(IllegalTransition, match=status):
            apply(status, action)


@given(statuses)
def test_every_status_can_come_to_an_end(status: Status) -> None:
    reached, border = {status}, [status]
    while border:
        for after in TRANSITIONS[border.pop()].values():
            if after not in reached:
                reached.add(after)
                border.append(after)
    assert reached & TERMINAL


def test_terminal_are_the_three_that_openai_calls_final() -> None:
    assert {Status.SUCCEEDED, Status.FAILED, Status.CANCELLED} == TERMINAL
