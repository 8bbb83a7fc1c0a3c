"""When vLLM sleeps so that jobs are trained, on a card that does not hold both at work. Pure.

    asleep ──▶ awake      somebody asks and training had its due, or there is nothing to train
    awake ──▶ draining    jobs wait, and training is owed a turn, or nobody has asked for a while
    draining ──▶ asleep   no answer is under way, now that nothing more begins
    draining ──▶ awake    there is nothing to train any more

While it drains and sleeps, requests wait in the engine's own waiting room, which is bounded.
"""

from typing import Literal

import msgspec

from service.runtime.shares import Shares

State = Literal["awake", "draining", "asleep"]


class Wants(msgspec.Struct, frozen=True):
    """What there is to do, at one moment."""

    waiting: int
    """Requests that were not begun."""
    running: int
    """Answers under way in vLLM."""
    jobs: bool
    """Whether a job is there to be trained."""


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """All in seconds."""

    idle: float = 10.0
    """Without a request, before the first sleep; doubled after each that was cut short."""
    most_idle: float = 160.0
    turn: float = 60.0
    """What training has at a time while requests wait. Falling asleep and waking take seconds."""


class Sleeping:
    """Tells the state to be in, whenever it is told what there is to do.

    Training keeps at least its `share` of the time in which both are wanted, in turns of
    `patience.turn`; a request waits for one of these at most, and for the answers under way. Who
    asks again and again, shortly after vLLM fell asleep, makes it wait longer before the next time.
    """

    def __init__(self, share: float, now: float, patience: Patience = Patience()) -> None:  # noqa: B008 - frozen
        self.state: State = "awake"
        self._patience = patience
        self._shares = Shares(share)
        self._seen = self._asked = self._fell = now
        self._idle = patience.idle

    def next(self, now: float, wants: Wants) -> State:
        """Give the state for now; time since the last call counts as spent in the one before."""
        self._count(now - self._seen, wants)
        self._seen = now
        if wants.waiting or wants.running:
            self._asked = now
        if self.state == "asleep":
            if self._wakes(wants):
                self._woke(now, wants)
        elif not wants.jobs:
            self.state = "awake"
        elif self.state == "draining":
            if not wants.running:
                self.state, self._fell = "asleep", now
        elif self._drains(now):
            self.state = "draining"
        return self.state

    def _count(self, seconds: float, wants: Wants) -> None:
        if self.state == "asleep":
            self._shares.trained(seconds)
        elif wants.jobs and (wants.waiting or wants.running):
            self._shares.generated(seconds)

    def _wakes(self, wants: Wants) -> bool:
        return not wants.jobs or (wants.waiting > 0 and self._shares.generation_may)

    def _drains(self, now: float) -> bool:
        return now - self._asked >= self._idle or self._shares.owed >= self._patience.turn

    def _woke(self, now: float, wants: Wants) -> None:
        self.state = "awake"
        cut = wants.waiting and now - self._fell < self._idle
        self._idle = min(self._patience.most_idle, 2 * self._idle) if cut else self._patience.idle
