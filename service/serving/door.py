"""The engine's door: what other threads leave for the one that owns the model. No torch."""

import queue
import threading
from collections.abc import Callable

from service.errors import EngineBusy, EngineUnavailable
from service.serving.calls import Call
from service.serving.waiting_room import WaitingRoom

Message = Callable[[], None]


class Door:
    """`hear` is for the thread that owns the model, the rest for any.

    Whoever drives that thread sets `wake`, which is called when there is something to hear.
    """

    def __init__(self, room: WaitingRoom) -> None:
        self._room = room
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        # Held also while a message is left, so that none is left after the one that ends it all.
        self._lock = threading.Lock()
        self._is_shut = False
        self.wake: Callable[[], None] = nobody

    @property
    def is_shut(self) -> bool:
        """Whether nobody is let in any more."""
        return self._is_shut

    @property
    def is_quiet(self) -> bool:
        """Whether there is nothing to hear."""
        return self._inbox.empty()

    def enter(self, call: Call, message: Message) -> None:
        """Let a call in. Raises EngineBusy if it may not wait, and EngineUnavailable once shut."""
        with self._lock:
            self.require_open()
            waits = self._room.enter(call.tenant, call.parts)
            if waits is None:
                raise EngineBusy("too many requests are waiting")
            call.waits = waits
            self.put(message)

    def waits_no_more(self, call: Call) -> None:
        """Note that all of a call is in the batch, or over."""
        if call.waits:
            call.waits = False
            with self._lock:
                self._room.admit(call.tenant)

    def depart(self, sequences: int) -> None:
        """Note that sequences are over."""
        with self._lock:
            self._room.leave(sequences)

    def leave(self, message: Message) -> None:
        """Leave a message. Raises EngineUnavailable once shut."""
        with self._lock:
            self.require_open()
            self.put(message)

    def put(self, message: Message) -> None:
        """Leave a message, be it shut or not."""
        self._inbox.put(message)
        self.wake()

    def hear(self) -> None:
        """Do what the messages say, in their order."""
        while True:
            try:
                message = self._inbox.get_nowait()
            except queue.Empty:
                return
            message()

    def shut(self) -> bool:
        """Let nobody in any more; tells whether somebody would have been until now."""
        with self._lock:
            was_open, self._is_shut = not self._is_shut, True
        return was_open

    def require_open(self) -> None:
        """Raise EngineUnavailable once shut."""
        if self._is_shut:
            raise closed()


def closed() -> EngineUnavailable:
    """Say that there will be no answer any more."""
    return EngineUnavailable("the generation engine is closed")


def nobody() -> None:
    """Wake nobody: nobody drives it yet."""
