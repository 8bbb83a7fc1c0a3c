"""Which revisions are resident: places, leases, pins, least recently used first out. Pure.

    absent -> loading -> resident (leases 0..n) -> absent

A lease is a running sequence's. A pin is the operator's: what has one is loaded without being asked
for, and never evicted. A tenant may have a limit of its own: then its own make room for each other.
One owner calls all this; it never loads anything itself. `acquire` and `prefetch` say what to do,
`loaded` and `failed` report how it went.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Literal

import msgspec

from adapters_store import RevisionRef
from service.serving.engine import Resident
from service.serving.load_times import LoadTimes


class TooManyPins(ValueError):
    """One place at least must be left for what is not pinned."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """It is resident and now leased once more."""


class Load(msgspec.Struct, frozen=True, tag=True):
    """A place is reserved: unload `evict` first if given, load, then call `loaded` or `failed`."""

    evict: RevisionRef | None


class Wait(msgspec.Struct, frozen=True, tag=True):
    """Ask again later: it is being loaded, leaves soon, or every place it may have is in use."""

    reason: Literal["loading", "draining", "full"]


Acquired = Ready | Load | Wait


class _Place(msgspec.Struct):
    leases: int = 0
    loading: bool = False
    draining: bool = False
    hits: int = 0
    load_seconds: float | None = None
    used_at: float | None = None


class Residency:
    """Decides for at most `limit` revisions. A leased, pinned or loading one is never evicted.

    `clock` gives the unix time.
    """

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        if limit < 1:
            raise ValueError("at least one adapter must fit")
        self._limit = limit
        self._clock = clock
        self._places: dict[RevisionRef, _Place] = {}  # least recently acquired first
        self._pins: frozenset[RevisionRef] = frozenset()
        self._limits: dict[str, int] = {}  # tenants' own
        self._wanted: dict[RevisionRef, None] = {}  # without a request; longest wanted first
        self.hits = self.misses = self.loads = self.evictions = self.failures = 0
        self.load_times = LoadTimes()

    def __iter__(self) -> Iterator[RevisionRef]:
        """Walk what is resident, the least recently acquired first."""
        return (ref for ref, place in self._places.items() if not place.loading)

    @property
    def wants(self) -> bool:
        """Whether anything waits for `prefetch`."""
        return bool(self._wanted)

    def residents(self) -> list[Resident]:
        """Describe what has a place, the least recently acquired first."""
        return [
            Resident(
                ref=ref,
                state="loading" if place.loading else "resident",
                pinned=ref in self._pins,
                leases=place.leases,
                hits=place.hits,
                load_seconds=place.load_seconds,
                used_at=place.used_at,
            )
            for ref, place in self._places.items()
        ]

    def limit(self, tenant: str, most: int | None) -> None:
        """Let at most so many of a tenant's revisions have a place; those it has, it keeps.

        Beside its pins one place is left at least, as of all places.
        """
        if most is None:
            self._limits.pop(tenant, None)
        else:
            self._limits[tenant] = most

    def ready(self, ref: RevisionRef) -> bool:
        """Whether `acquire` would lease it now."""
        place = self._places.get(ref)
        return place is not None and not place.loading and not place.draining

    def count(self, ref: RevisionRef) -> None:
        """Note that a request comes for it: a hit if it could be leased at once."""
        if self.ready(ref):
            self.hits += 1
            self._places[ref].hits += 1
        else:
            self.misses += 1

    def acquire(self, ref: RevisionRef) -> Acquired:
        """Lease it if it is resident; else reserve a place for it if one can be had."""
        place = self._places.get(ref)
        if place is None:
            return self._reserve(ref)
        if place.loading or place.draining:
            return Wait("loading" if place.loading else "draining")
        self._refresh(ref)
        place.leases += 1
        place.used_at = self._clock()
        return Ready()

    def release(self, ref: RevisionRef) -> None:
        """Take back one lease."""
        place = self._places[ref]
        if not place.leases:
            raise ValueError(f"{ref} is not leased")
        place.leases -= 1

    def loaded(self, ref: RevisionRef, seconds: float) -> None:
        """Report that a load succeeded, and how long it took: it may be acquired now."""
        place = self._loading(ref)
        place.loading = False
        place.load_seconds = seconds
        self.loads += 1
        self.load_times = self.load_times.add(seconds)

    def failed(self, ref: RevisionRef) -> None:
        """Report that a load failed: its place is free again."""
        self._loading(ref)
        del self._places[ref]
        self.failures += 1

    def pin(self, refs: Collection[RevisionRef]) -> None:
        """Make these the pinned ones, and want those that are absent. Raises TooManyPins."""
        pins = frozenset(refs)
        if len(pins) >= self._limit:
            raise TooManyPins(f"{len(pins)} of {self._limit} places")
        for ref in self._pins - pins:
            self._wanted.pop(ref, None)
        self._pins = pins
        for ref in sorted(pins):
            if (place := self._places.get(ref)) is None:
                self._wanted.setdefault(ref)
            else:
                place.draining = False
        self._shorten()

    def want(self, ref: RevisionRef) -> None:
        """Have it loaded without a request, unless too many others are wanted after it."""
        if ref in self._places:
            self._refresh(ref)
        else:
            self._wanted.pop(ref, None)
            self._wanted[ref] = None
            self._shorten()

    def prefetch(self, needed: Collection[RevisionRef]) -> tuple[RevisionRef, Load] | None:
        """Reserve a place for what is wanted, one load at a time, where it holds nobody up.

        Whoever waits needs the `needed` ones: they are not evicted for it.
        """
        busy = any(place.loading or place.draining for place in self._places.values())
        ref = None if busy else next(iter(self._wanted), None)
        if ref is None:
            return None
        reserved = self._reserve(ref, needed)
        return (ref, reserved) if isinstance(reserved, Load) else None

    def drain(self, wanted: RevisionRef | None) -> None:
        """While one is wanted, let one go for it as soon as nothing uses it.

        The least recently acquired; of its tenant's, where that has no more places. For a revision
        that would otherwise wait as long as the others stay busy.
        """
        places = self._places.values()
        if wanted is None:
            for place in places:
                place.draining = False
        elif self._needs_room(wanted) and not any(p.draining or p.loading for p in places):
            leaving = next((ref for ref in self._rivals(wanted) if ref not in self._pins), None)
            if leaving is not None:
                self._places[leaving].draining = True

    def check_integrity(self) -> None:
        """Raise AssertionError if the books are wrong."""
        assert len(self._places) <= self._limit, "more revisions than places"
        assert len(self._pins) < self._limit, "no place is left for what is not pinned"
        assert len(self._wanted) <= self._limit, "more is wanted than could be resident"
        assert not self._wanted.keys() & self._places.keys(), "what has a place is wanted"
        assert sum(place.draining for place in self._places.values()) <= 1, "two are draining"
        for ref, place in self._places.items():
            assert place.leases >= 0, f"{ref} has negative leases"
            assert not (place.loading and place.leases), f"{ref} is leased before it is loaded"
            assert not (place.loading and place.draining), f"{ref} leaves before it came"
            assert not (place.draining and ref in self._pins), f"{ref} leaves although it is pinned"

    def _reserve(self, ref: RevisionRef, needed: Collection[RevisionRef] = ()) -> Load | Wait:
        evict = None
        if self._needs_room(ref):
            evict = self._victim(ref, needed)
            if evict is None:
                return Wait("full")
            del self._places[evict]
            self.evictions += 1
        self._wanted.pop(ref, None)
        self._places[ref] = _Place(loading=True)
        return Load(evict)

    def _needs_room(self, ref: RevisionRef) -> bool:
        return len(self._places) >= self._limit or self._is_at_limit(ref)

    def _is_at_limit(self, ref: RevisionRef) -> bool:
        limit = self._limits.get(ref.tenant)
        if limit is None or ref in self._pins:
            return False
        pins = sum(pin.tenant == ref.tenant for pin in self._pins)
        own = sum(one.tenant == ref.tenant for one in self._places if one not in self._pins)
        return own >= max(1, limit - pins)

    def _rivals(self, ref: RevisionRef) -> list[RevisionRef]:
        """Walk those that may have to make room for it, the least recently acquired first."""
        own = self._is_at_limit(ref)
        return [other for other in self._places if not own or other.tenant == ref.tenant]

    def _victim(self, wanted: RevisionRef, needed: Collection[RevisionRef]) -> RevisionRef | None:
        free = [
            ref
            for ref in self._rivals(wanted)
            if not self._is_used(ref) and ref not in self._pins and ref not in needed
        ]
        draining = [ref for ref in free if self._places[ref].draining]
        return next(iter([*draining, *free]), None)

    def _is_used(self, ref: RevisionRef) -> bool:
        place = self._places[ref]
        return place.loading or place.leases > 0

    def _refresh(self, ref: RevisionRef) -> None:
        self._places[ref] = self._places.pop(ref)

    def _shorten(self) -> None:
        while len(self._wanted) > self._limit:
            del self._wanted[next(ref for ref in self._wanted if ref not in self._pins)]

    def _loading(self, ref: RevisionRef) -> _Place:
        place = self._places[ref]
        if not place.loading:
            raise ValueError(f"{ref} is not being loaded")
        return place
