"""The life of a fine-tuning job: one table, and the function that applies it. Pure."""

from enum import StrEnum
from typing import Final


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
    """A runtime that shuts down gives the job back."""
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
