"""How many requests may wait, and how many of one tenant's: refused at the door. Pure.

A tenant may have as many waiting as places are left: dynamic thresholds, as switches share a
buffer (Choudhury and Hahne, 1998). Alone it gets half of them, two get a third each, and a place is
left for who comes next.
"""

from collections import Counter


class WaitingRoom:
    """`places` for requests, before a batch of `batch` sequences."""

    def __init__(self, places: int, batch: int) -> None:
        self._places = places
        self._batch = batch
        self._sequences = 0
        """Let in and not over."""
        self._waiting: Counter[str] = Counter()

    @property
    def waiting(self) -> int:
        """Requests that were let in to wait, and still do."""
        return self._waiting.total()

    def enter(self, tenant: str, sequences: int) -> bool | None:
        """Let a request in; tells whether it has to wait, and is None for one that is refused.

        What fits into the batch does not wait.
        """
        waits = self._sequences + sequences > self._batch
        if waits:
            if self._waiting[tenant] >= self._places - self.waiting:
                return None
            self._waiting[tenant] += 1
        self._sequences += sequences
        return waits

    def admit(self, tenant: str) -> None:
        """Note that one of those that waited does no more."""
        self._waiting[tenant] -= 1
        if not self._waiting[tenant]:
            del self._waiting[tenant]

    def leave(self, sequences: int) -> None:
        """Note that sequences are over."""
        self._sequences -= sequences
