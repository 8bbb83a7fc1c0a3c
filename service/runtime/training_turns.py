"""Trains only in its turn on a card that vLLM has too."""

import asyncio
import threading
from collections.abc import Callable

from service.runtime.card import Card
from service.runtime.conductor import Training
from service.waiting import pass_time

LOOK_SECONDS = 0.1


class InTurn:
    """What trains, in steps between `begin` and `end` alone. Implements `Training` too."""

    def __init__(self, batch: Training, wake: Callable[[], None]) -> None:
        self._batch = batch
        self._wake = wake
        self._stepping = threading.Lock()
        self._may = False

    @property
    def waits(self) -> bool:
        """Whether there is something to train, in its turn or not."""
        return self._batch.wanted

    @property
    def most_tokens(self) -> int:
        """Bounds the tokens of the next rows."""
        return self._batch.most_tokens

    @most_tokens.setter
    def most_tokens(self, tokens: int) -> None:
        self._batch.most_tokens = tokens

    @property
    def row_tokens(self) -> int:
        """Tokens of the last turn's longest row."""
        return self._batch.row_tokens

    @property
    def wanted(self) -> bool:
        """Whether a turn would do something now."""
        return self._may and self._batch.wanted

    def turn(self) -> bool:
        """Take a step, if it may."""
        with self._stepping:
            return self._may and self._batch.turn()

    def begin(self) -> None:
        """Let it take steps from now on."""
        self._may = True
        self._wake()

    def end(self) -> None:
        """Let it take no more, and return once the one in hand is done."""
        self._may = False
        with self._stepping:
            pass


async def keep_turns(
    training: InTurn, card: Card, let_go: Callable[[], None], stop: asyncio.Event
) -> None:
    """Give it its turns until `stop`; `let_go` frees, after each, what is not needed to rest."""
    while not stop.is_set():
        if training.waits:
            async with card.wanted():
                await _turns(training, card, let_go, stop)
        await pass_time(stop, LOOK_SECONDS)


async def _turns(
    training: InTurn, card: Card, let_go: Callable[[], None], stop: asyncio.Event
) -> None:
    while training.waits and not stop.is_set():
        if await card.wanted_by_other():
            # It has not got the card yet that was left to it.
            await pass_time(stop, LOOK_SECONDS)
            continue
        async with card.turn():
            if stop.is_set():
                return
            training.begin()
            while training.waits and not (stop.is_set() or await card.wanted_by_other()):
                await pass_time(stop, LOOK_SECONDS)
            await asyncio.to_thread(training.end)
            let_go()
