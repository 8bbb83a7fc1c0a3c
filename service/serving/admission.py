"""Who may run now: places in the batch, and places on the base for their adapters. Pure."""

from collections import deque
from collections.abc import Collection, Iterable

import msgspec

from adapters_store import RevisionRef
from service.serving.fair_turns import FairTurns
from service.serving.residency import Load, Ready, Residency, Wait

PATIENCE = 64
"""Sequences that may be let past a request whose adapter finds no place."""


class Asked(msgspec.Struct, frozen=True):
    """What matters here of a request."""

    tenant: str
    weight: float
    ref: RevisionRef | None
    prompt_tokens: int
    places: int | None = None
    """Most places that its tenant's revisions may have; None: as many as there are."""


LIGHT = 2
"""A tenant that has less than this part of an equal share running is a light one."""
CREDIT = 2048
"""Tokens that a light tenant is given before its turn at most, where a place is spare."""


class Decision(msgspec.Struct):
    """Evict and load, for each of `loads` (revision, evicted first or None); run each of `run`."""

    run: list[int]
    loads: list[tuple[RevisionRef, RevisionRef | None]]
    ahead: set[int] = set()
    """Of `run`, those of tenants of whom next to nothing ran."""


class _Waiting(msgspec.Struct):
    keys: deque[int]
    asked: Asked
    passed: int = 0
    counted: bool = False
    begun: bool = False

    @property
    def ref(self) -> RevisionRef | None:
        return self.asked.ref


def at_once(max_batch: int) -> int:
    """Give the most that is generated at once.

    Places beyond `max_batch` are kept for tenants of whom next to nothing runs.
    """
    return max_batch + max(1, max_batch // 8)


class Admission:
    """The tenant that was served least comes next, and of its requests the first that came.

    While the batch is full, one of whom next to nothing runs comes in all the same, `credit` tokens
    before its turn at most: places are spare for that. Who waits for an adapter's place is passed
    by those who need none, and keeps its turn. Never for ever: once PATIENCE others went past, the
    least recently used adapter takes no new work until it can be evicted.
    """

    def __init__(self, max_batch: int, residency: Residency, credit: float = CREDIT) -> None:
        self._credit = credit
        self._max_batch = max_batch
        self._most = at_once(max_batch)
        self._residency = residency
        self._turns = FairTurns()
        self._queue: list[_Waiting] = []
        self._running: dict[int, Asked] = {}

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests that have a sequence still outside the batch."""
        return len(self._queue)

    def offer(self, keys: Collection[int], asked: Asked) -> None:
        """Queue one request's sequences."""
        self._turns.came(asked.tenant, asked.weight)
        # Not where the house asks, for a score.
        if asked.ref is not None and asked.tenant == asked.ref.tenant:
            self._residency.limit(asked.ref.tenant, asked.places)
        self._queue.append(_Waiting(deque(keys), asked))

    def withdraw(self, keys: Collection[int]) -> None:
        """Let sequences go, done or not, running or waiting."""
        for key in keys:
            if (asked := self._running.pop(key, None)) is not None:
                self._turns.ended(asked.tenant)
                if asked.ref is not None:
                    self._residency.release(asked.ref)
        for waiting in self._queue:
            waiting.keys = deque(key for key in waiting.keys if key not in keys)
        self._sweep()

    def generated(self, keys: Iterable[int]) -> None:
        """Count a token for each of these sequences' tenants."""
        for key in keys:
            if (asked := self._running.get(key)) is not None:
                self._turns.charge(asked.tenant, generated=1)

    def failed(self, ref: RevisionRef) -> list[int]:
        """Report a failed load; withdraws the sequences that waited for it, and returns them."""
        self._residency.failed(ref)
        lost = [key for waiting in self._queue if waiting.ref == ref for key in waiting.keys]
        self.withdraw(lost)
        return lost

    def decide(self) -> Decision:
        """Say who runs and what is loaded now. The caller does all of it, evictions first."""
        decision = Decision([], [])
        starving = (waiting.ref for waiting in self._queue if self._starves(waiting))
        self._residency.drain(next(starving, None))
        stuck: list[_Waiting] = []
        queues: dict[str, deque[_Waiting]] = {}
        for waiting in self._queue:
            queues.setdefault(waiting.asked.tenant, deque()).append(waiting)
        # Whose turn it is may have no place, and another a spare one.
        while roomy := self._roomy(queues):
            tenant = self._turns.next(roomy)
            first = queues[tenant][0]
            if not self._admit(first, stuck, decision) or not first.keys:
                queues[tenant].popleft()
                if not queues[tenant]:
                    del queues[tenant]
        self._sweep()
        self._prefetch(decision)
        return decision

    def _roomy(self, tenants: Collection[str]) -> Collection[str]:
        """Give those of them for whom there is a place."""
        if self.running < self._max_batch:
            return tenants
        if self.running >= self._most:
            return ()
        return self._turns.before_turn(self._light(tenants), self._credit)

    def _light(self, tenants: Iterable[str]) -> list[str]:
        """Give those that have next to nothing in the batch, against an equal share of it."""
        present = self._turns.present
        most = self._max_batch / (LIGHT * present) if present > 1 else 0
        return [one for one in tenants if (runs := self._turns.running(one)) < most or not runs]

    def _admit(self, waiting: _Waiting, stuck: list[_Waiting], decision: Decision) -> bool:
        """Let one sequence in, if its adapter is there; note who is stuck for want of a place."""
        if waiting.ref is not None:
            self._count(waiting)
            acquired = self._residency.acquire(waiting.ref)
            if isinstance(acquired, Load):
                decision.loads.append((waiting.ref, acquired.evict))
            elif isinstance(acquired, Wait) and acquired.reason == "full":
                stuck.append(waiting)
            if not isinstance(acquired, Ready):
                return False
            for other in stuck:
                other.passed += 1
        self._begin(waiting, decision)
        return True

    def _begin(self, waiting: _Waiting, decision: Decision) -> None:
        asked = waiting.asked
        if not waiting.begun:
            # Once for all choices: they share its keys and values.
            waiting.begun = True
            self._turns.charge(asked.tenant, read=asked.prompt_tokens)
        key = waiting.keys.popleft()
        # Whoever is alone would go ahead of itself.
        if self._turns.present > 1 and self._light([asked.tenant]):
            decision.ahead.add(key)
        self._running[key] = asked
        self._turns.began(asked.tenant)
        decision.run.append(key)

    def _sweep(self) -> None:
        """Forget requests that have nothing outside the batch any more."""
        for waiting in self._queue:
            if not waiting.keys:
                self._turns.left(waiting.asked.tenant)
        self._queue = [waiting for waiting in self._queue if waiting.keys]

    def _prefetch(self, decision: Decision) -> None:
        """Load what is wanted without a request, after all who ask had their turn."""
        if not self._residency.wants:
            return
        needed = {waiting.ref for waiting in self._queue if waiting.ref is not None}
        if (found := self._residency.prefetch(needed)) is not None:
            ref, load = found
            decision.loads.append((ref, load.evict))

    def _count(self, waiting: _Waiting) -> None:
        if waiting.ref is not None and not waiting.counted:
            waiting.counted = True
            self._residency.count(waiting.ref)

    def _starves(self, waiting: _Waiting) -> bool:
        ref = waiting.ref
        return ref is not None and waiting.passed >= PATIENCE and not self._residency.ready(ref)
