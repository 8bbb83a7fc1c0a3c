"""The one thread that uses the base: generation first, training in between and within."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from threading import Event, Thread, local
from typing import Literal, Protocol

from service.runtime.shares import Shares
from service.runtime.stalls import Stalls

LINGERS_SECONDS = 1.0
"""After its last turn, generation is expected to want another for so long."""
RETURNS_SECONDS = 10.0
"""Who has asked is expected to ask again for so long."""

Kind = Literal["generation", "training"]
Turned = Callable[[Kind, float], None]
"""Is told whose turn it was, and how many seconds it took."""


def untold(_: Kind, __: float) -> None:
    """Tell nobody of turns."""


class Generation(Protocol):
    """What answers requests. A turn is one step of the running batch."""

    @property
    def wanted(self) -> bool:
        """Whether a turn would do something; cheap."""
        ...

    @property
    def answering(self) -> bool:
        """Whether the last turn had somebody in it who waits for one token after the other."""
        ...

    def turn(self) -> bool:
        """Take one; tell whether there was anything to do. Never blocks, never raises."""
        ...


class Training(Protocol):
    """What trains. A turn is one step of all tasks, with pauses in it."""

    most_tokens: int
    """Bounds the tokens of the next rows."""

    @property
    def wanted(self) -> bool:
        """Whether a turn would do something; cheap."""
        ...

    @property
    def row_tokens(self) -> int:
        """Tokens of the last turn's longest row."""
        ...

    def turn(self) -> bool:
        """Take one; tell whether there was anything to do. Never raises."""
        ...


class Conductor:
    """Gives turns, in a thread of its own, from `start` to `stop`.

    Training calls `pause` wherever somebody else may have a turn; `pace` is called there first,
    with whether generation goes on, and keeps a GPU's queue short. Its rows have at most
    `most_tokens`; `calm_tokens` while nobody asks, if somebody did lately. `turned` is told of
    every turn.
    """

    def __init__(
        self,
        shares: Shares,
        stalls: Stalls,
        most_tokens: int,
        *,
        calm_tokens: int | None = None,
        pace: Callable[[bool], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        turned: Turned = untold,
    ) -> None:
        self._shares = shares
        self._stalls = stalls
        self._most_tokens = most_tokens
        self._calm_tokens = min(most_tokens, calm_tokens or most_tokens)
        self._pace = pace
        self._clock = clock
        self._turned = turned
        self._woken = Event()
        self._stopping = False
        self._generation: Generation | None = None
        self._training: Training | None = None
        self._generated_at = float("-inf")
        self._resumed = self._longest = 0.0
        self._quiet = Event()
        self._quiet.set()
        self._went_on = local()
        self.ended: Future[None] = Future()
        """Done when the thread is; with the fault that ended it, if one did."""

    def start(self, generation: Generation | None, training: Training | None) -> None:
        """Give turns from now on."""
        self._generation, self._training = generation, training
        Thread(target=self._run, name="base", daemon=True).start()

    def wake(self) -> None:
        """Say, from any thread, that there is something to do."""
        self._woken.set()

    def stop(self) -> None:
        """End the thread after the turn in hand, and wait for that."""
        self._stopping = True
        self.wake()
        self.ended.exception()

    def pause(self) -> None:
        """Let generation have the turns it may, within a turn of training's."""
        self._pace(self._generating)
        self._trained()
        while self._generation is not None and self._shares.generation_may:
            if not self._generate():
                break
        self._resumed = self._clock()

    def give_way(self) -> None:
        """Wait, in any other thread that trains on the base's weights, while generation goes on.

        Not for longer than leaves that thread training's share, either.
        """
        now = self._clock()
        if not self._quiet.is_set():
            began = getattr(self._went_on, "at", now)
            self._quiet.wait(self._shares.patience(now - began))
        self._went_on.at = self._clock()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._woken.clear()
                if not self._round():
                    self._woken.wait()
        except BaseException as fault:  # noqa: BLE001  told to whoever waits for the end
            self._quiet.set()
            self.ended.set_exception(fault)
        else:
            self._quiet.set()
            self.ended.set_result(None)

    def _round(self) -> bool:
        training = self._training is not None and self._training.wanted
        may = not training or self._shares.generation_may
        generated = may and self._generate()
        return (training and self._train()) or generated

    def _generate(self) -> bool:
        generation = self._generation
        if generation is None or not generation.wanted:
            self._quiet.set()
            return False
        self._quiet.clear()
        began = self._clock()
        worked = generation.turn()
        now = self._clock()
        self._turned("generation", now - began)
        if generation.answering:
            # Nobody sees how long anything else takes, as when a job's own adapter is examined:
            # rows stay as they are, and what is trained does not depend on it.
            self._generated_at = now
            self._stalls.generated(now - began)
        if self._training is not None and self._training.wanted:
            self._shares.generated(now - began)
        return worked

    def _train(self) -> bool:
        training = self._training
        assert training is not None
        training.most_tokens = self._bound()
        began = self._resumed = self._clock()
        self._longest = 0.0
        worked = training.turn()
        self._trained()
        self._turned("training", self._clock() - began)
        self._stalls.went(self._longest, training.row_tokens)
        return worked

    def _bound(self) -> int:
        if self._generating:
            return self._stalls.tokens(self._calm_tokens)
        # The first who asks meets the row under way. Fixed bounds: what is measured differs from
        # run to run, and with it how sums are cut, so that no two runs were bit-equal.
        lately = self._clock() - self._generated_at < RETURNS_SECONDS
        return self._calm_tokens if lately else self._most_tokens

    def _trained(self) -> None:
        stretch = self._clock() - self._resumed
        self._longest = max(self._longest, stretch)
        self._shares.trained(stretch)

    @property
    def _generating(self) -> bool:
        return self._clock() - self._generated_at < LINGERS_SECONDS
