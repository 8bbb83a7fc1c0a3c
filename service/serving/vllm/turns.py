"""Gives a generation loop its turns in an event loop, when there is something to do."""

import asyncio

from service.serving.generation_loop import GenerationLoop


class Turns:
    """Drives `loop` from the event loop that it is made in, until it has ended.

    All that arrived since the last turn is one turn's: one for a step of vLLM's, not for a token.
    """

    def __init__(self, loop: GenerationLoop) -> None:
        self._loop = loop
        self._events = asyncio.get_running_loop()
        self._called = False
        loop.door.wake = self.wake

    def wake(self) -> None:
        """Have a turn taken, on any thread."""
        if not self._called:
            self._called = True
            self._events.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        self._called = False
        if self._loop.turn():
            self.wake()
