"""Who may run now: places in the batch, and places on the base for their adapters. Pure."""

from collections import deque
from collections.abc import Collection

import msgspec

from adapters_store import RevisionRef
from service.serving.residency import Load, Ready, Residency

PATIENCE = 64
"""Sequences that may be let past a request whose adapter finds no place."""


class Decision(msgspec.Struct):
    """Evict and load, for each of `loads` (revision, evicted first or None); run each of `run`."""

    run: list[int]
    loads: list[tuple[RevisionRef, RevisionRef | None]]


class _Waiting(msgspec.Struct):
    keys: deque[int]
    ref: RevisionRef | None
    passed: int = 0
    counted: bool = False


class Admission:
    """First come, first served; who waits for an adapter's place is passed by those who need none.

    Never for ever: once PATIENCE others went past, the least recently used adapter takes no new
    work until it can be evicted.
    """

    def __init__(self, max_batch: int, max_queue: int, residency: Residency) -> None:
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._residency = residency
        self._queue: list[_Waiting] = []
        self._running: dict[int, RevisionRef | None] = {}

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests that have a sequence still outside the batch."""
        return len(self._queue)

    def offer(self, keys: Collection[int], ref: RevisionRef | None) -> bool:
        """Queue one request's sequences; False when the queue is full.

        Ask for a decision after each offer: what can run at once does not count as waiting.
        """
        if len(self._queue) >= self._max_queue and not self._fits_now(len(keys), ref):
            return False
        self._queue.append(_Waiting(deque(keys), ref))
        return True

    def withdraw(self, keys: Collection[int]) -> None:
        """Let sequences go, done or not, running or waiting."""
        for key in keys:
            if key in self._running and (ref := self._running.pop(key)) is not None:
                self._residency.release(ref)
        for waiting in self._queue:
            waiting.keys = deque(key for key in waiting.keys if key not in keys)
        self._queue = [waiting for waiting in self._queue if waiting.keys]

    def failed(self, ref: RevisionRef) -> list[int]:
        """Report a failed load; withdraws the sequences that waited for it, and returns them."""
        self._residency.failed(ref)
        lost = [key for waiting in self._queue if waiting.ref == ref for key in waiting.keys]
        self._queue = [waiting for waiting in self._queue if waiting.ref != ref]
        return lost

    def decide(self) -> Decision:
        """Say who runs and what is loaded now. The caller does all of it, evictions first."""
        decision = Decision([], [])
        self._residency.drain(any(self._starves(waiting) for waiting in self._queue))
        stuck: list[_Waiting] = []
        for waiting in self._queue:
            if self.running >= self._max_batch:
                break
            before = len(decision.run)
            if self._admit(waiting, decision):
                stuck.append(waiting)
            if waiting.ref is not None:
                for other in stuck:
                    other.passed += len(decision.run) - before
        self._queue = [waiting for waiting in self._queue if waiting.keys]
        self._prefetch(decision)
        return decision

    def _prefetch(self, decision: Decision) -> None:
        """Load what is wanted without a request, after all who ask had their turn."""
        if not self._residency.wants:
            return
        needed = {waiting.ref for waiting in self._queue if waiting.ref is not None}
        if (found := self._residency.prefetch(needed)) is not None:
            ref, load = found
            decision.loads.append((ref, load.evict))

    def _admit(self, waiting: _Waiting, decision: Decision) -> bool:
        """Let in what fits; True if it waits because every place for adapters is in use."""
        while waiting.keys and self.running < self._max_batch:
            if waiting.ref is not None:
                self._count(waiting)
                acquired = self._residency.acquire(waiting.ref)
                if isinstance(acquired, Load):
                    decision.loads.append((waiting.ref, acquired.evict))
                if not isinstance(acquired, Ready):
                    return not isinstance(acquired, Load) and acquired.reason == "full"
            key = waiting.keys.popleft()
            self._running[key] = waiting.ref
            decision.run.append(key)
        return False

    def _count(self, waiting: _Waiting) -> None:
        if waiting.ref is not None and not waiting.counted:
            waiting.counted = True
            self._residency.count(waiting.ref)

    def _starves(self, waiting: _Waiting) -> bool:
        ref = waiting.ref
        return ref is not None and waiting.passed >= PATIENCE and not self._residency.ready(ref)

    def _fits_now(self, sequences: int, ref: RevisionRef | None) -> bool:
        free = self._max_batch - self.running
        return sequences <= free and (ref is None or self._residency.ready(ref))
