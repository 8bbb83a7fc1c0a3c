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
    Status,
    apply,
    is_terminal,
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
