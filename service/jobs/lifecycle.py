"""The life of a fine-tuning job: one table, and what its tenant may ask for. Pure."""

from enum import StrEnum
from typing import Final

import msgspec


class Status(StrEnum):
    """A job's status, as the wire and the rows spell it."""

    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Action(StrEnum):
    """What may happen to a job."""

    ACCEPT = "accept"
    CLAIM = "claim"
    """A runtime takes the job, or takes over one whose runtime fell silent."""
    REQUEUE = "requeue"
    """A runtime gives the job back, to be gone on with."""
    PAUSE = "pause"
    RESUME = "resume"
    SUCCEED = "succeed"
    FAIL = "fail"
    CANCEL = "cancel"


class IllegalTransition(Exception):
    """The status does not allow the action."""

    def __init__(self, status: Status, action: Action) -> None:
        super().__init__(f"a job that is {status} cannot {action}")
        self.status = status
        self.action = action


TRANSITIONS: Final[dict[Status, dict[Action, Status]]] = {
    Status.VALIDATING_FILES: {
        Action.ACCEPT: Status.QUEUED,
        Action.FAIL: Status.FAILED,
        Action.CANCEL: Status.CANCELLED,
    },
    Status.QUEUED: {
        Action.CLAIM: Status.RUNNING,
        Action.PAUSE: Status.PAUSED,
        Action.FAIL: Status.FAILED,
        Action.CANCEL: Status.CANCELLED,
    },
    Status.RUNNING: {
        Action.CLAIM: Status.RUNNING,
        Action.REQUEUE: Status.QUEUED,
        Action.PAUSE: Status.PAUSED,
        Action.SUCCEED: Status.SUCCEEDED,
        Action.FAIL: Status.FAILED,
        Action.CANCEL: Status.CANCELLED,
    },
    Status.PAUSED: {Action.RESUME: Status.QUEUED, Action.CANCEL: Status.CANCELLED},
    Status.SUCCEEDED: {},
    Status.FAILED: {},
    Status.CANCELLED: {},
}

TERMINAL: Final = frozenset(status for status, ways in TRANSITIONS.items() if not ways)


def apply(status: Status | str, action: Action) -> Status:
    """Tell the status after the action. Raises IllegalTransition."""
    status = Status(status)
    try:
        return TRANSITIONS[status][action]
    except KeyError:
        raise IllegalTransition(status, action) from None


def is_terminal(status: Status | str) -> bool:
    """Tell whether nothing can happen to the job any more."""
    return Status(status) in TERMINAL


class Standing(msgspec.Struct, frozen=True):
    """Where a job is, and what its tenant asked of the runtime that trains it."""

    status: Status
    cancelling: bool = False
    pausing: bool = False


def ask(standing: Standing, action: Action) -> Standing:
    """Tell what a tenant's CANCEL, PAUSE or RESUME does: at once while nobody trains the job.

    A running one is asked to stop at its next step. Asking twice is asking once; to resume a job
    that is about to pause takes the request back; nothing takes a cancellation back.
    Raises IllegalTransition.
    """
    status = standing.status
    if status is not Status.RUNNING:
        return standing if status is _ASKED_FOR[action] else Standing(apply(status, action))
    if action is Action.CANCEL:
        return Standing(status, cancelling=True)
    if standing.cancelling:
        raise IllegalTransition(status, action)
    return Standing(status, pausing=action is Action.PAUSE)


def put_down(standing: Standing) -> Action:
    """Tell what becomes of a running job whose runtime stopped in order. Cancelling wins."""
    if standing.cancelling:
        return Action.CANCEL
    return Action.PAUSE if standing.pausing else Action.REQUEUE


_ASKED_FOR: Final = {
    Action.CANCEL: Status.CANCELLED,
    Action.PAUSE: Status.PAUSED,
    Action.RESUME: Status.QUEUED,
}
