"""The newest events of one job, for everybody who follows it. Pure.

A job's events are written under its row's lock, so they become visible in the order of their
numbers, whatever other jobs' do: who has seen one has seen all before it.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

from service.database.models import JobEventRow


class Feed:
    """Holds every event after `start`, as far as it was told; `kept` of them at most."""

    def __init__(self, kept: int) -> None:
        self.start: int | None = None
        """None until somebody has read up to where the job is."""
        self.ended = False
        self.changed = asyncio.Event()
        """Set at the next news; then there is another one for the news after it."""
        self.listeners = 0
        self.looked_at = 0.0
        self._kept = kept
        self._rows: deque[JobEventRow] = deque()

    @property
    def seq(self) -> int | None:
        """The place of the last event that was told."""
        return self._rows[-1].seq if self._rows else self.start

    def since(self, seq: int) -> Sequence[JobEventRow] | None:
        """Tell what came after the event numbered `seq`; None: the feed does not reach back."""
        if self.start is None or seq < self.start:
            return None
        return [row for row in self._rows if row.seq > seq]

    def tell(self, since: int, rows: Sequence[JobEventRow], *, ended: bool) -> None:
        """Take in all that there was after `since`, and whether nothing will follow it.

        Who read it may have been overtaken: what is known already is passed over.
        """
        if self.start is None:
            self.start = since
        known = self.seq or 0
        if since > known:
            return
        news = [row for row in rows if row.seq > known]
        self._rows.extend(news)
        while len(self._rows) > self._kept:
            self.start = self._rows.popleft().seq
        if news or ended > self.ended:
            self.ended = ended or self.ended
            self._wake()

    def forget(self) -> None:
        """Let everybody look for themselves."""
        self.start = None
        self._rows.clear()
        self._wake()

    def _wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()
