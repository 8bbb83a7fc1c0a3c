"""Which revisions are resident: places, pins, least recently used first out. Pure.

    absent -> loading -> resident (pins 0..n) -> absent

One owner calls it; it never loads anything itself. `acquire` says what to do, `loaded` and
`failed` report how it went.
"""

from collections.abc import Iterator
from typing import Literal

import msgspec

from adapters_store import RevisionRef


class Ready(msgspec.Struct, frozen=True, tag=True):
    """It is resident and now pinned once more."""


class Load(msgspec.Struct, frozen=True, tag=True):
    """A place is reserved: unload `evict` first if given, load, then call `loaded` or `failed`."""

    evict: RevisionRef | None


class Wait(msgspec.Struct, frozen=True, tag=True):
    """Ask again later: it is being loaded, leaves soon, or every place is in use."""

    reason: Literal["loading", "draining", "full"]


Acquired = Ready | Load | Wait


class _Place(msgspec.Struct):
    pins: int = 0
    loading: bool = False
    draining: bool = False


class Residency:
    """Decides for at most `limit` revisions. A pinned or loading one is never evicted."""

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError("at least one adapter must fit")
        self._limit = limit
        self._places: dict[RevisionRef, _Place] = {}  # least recently acquired first
        self.loads = 0
        self.evictions = 0

    def __iter__(self) -> Iterator[RevisionRef]:
        """Walk what is resident, the least recently acquired first."""
        return (ref for ref, place in self._places.items() if not place.loading)

    def ready(self, ref: RevisionRef) -> bool:
        """Whether `acquire` would pin it now."""
        place = self._places.get(ref)
        return place is not None and not place.loading and not place.draining

    def acquire(self, ref: RevisionRef) -> Acquired:
        """Pin it if it is resident; else reserve a place for it if one can be had."""
        place = self._places.get(ref)
        if place is None:
            return self._reserve(ref)
        if place.loading or place.draining:
            return Wait("loading" if place.loading else "draining")
        self._places[ref] = self._places.pop(ref)
        place.pins += 1
        return Ready()

    def release(self, ref: RevisionRef) -> None:
        """Take back one pin."""
        place = self._places[ref]
        if not place.pins:
            raise ValueError(f"{ref} is not pinned")
        place.pins -= 1

    def loaded(self, ref: RevisionRef) -> None:
        """Report that a load succeeded: it may be acquired now."""
        self._loading(ref).loading = False
        self.loads += 1

    def failed(self, ref: RevisionRef) -> None:
        """Report that a load failed: its place is free again."""
        self._loading(ref)
        del self._places[ref]

    def drain(self, wanted: bool) -> None:
        """While wanted, let one go as soon as nothing uses it: the least recently acquired.

        For a revision that would otherwise wait as long as the others stay busy.
        """
        places = self._places.values()
        if not wanted:
            for place in places:
                place.draining = False
        elif len(places) == self._limit and not any(p.draining or p.loading for p in places):
            next(iter(places)).draining = True

    def check_integrity(self) -> None:
        """Raise AssertionError if the books are wrong."""
        assert len(self._places) <= self._limit, "more revisions than places"
        assert sum(place.draining for place in self._places.values()) <= 1, "two are draining"
        for ref, place in self._places.items():
            assert place.pins >= 0, f"{ref} has negative pins"
            assert not (place.loading and place.pins), f"{ref} is pinned before it is loaded"
            assert not (place.loading and place.draining), f"{ref} leaves before it came"

    def _reserve(self, ref: RevisionRef) -> Acquired:
        evict = None
        if len(self._places) >= self._limit:
            evict = self._victim()
            if evict is None:
                return Wait("full")
            del self._places[evict]
            self.evictions += 1
        self._places[ref] = _Place(loading=True)
        return Load(evict)

    def _victim(self) -> RevisionRef | None:
        free = [ref for ref, place in self._places.items() if not (place.pins or place.loading)]
        draining = [ref for ref in free if self._places[ref].draining]
        return next(iter([*draining, *free]), None)

    def _loading(self, ref: RevisionRef) -> _Place:
        place = self._places[ref]
        if not place.loading:
            raise ValueError(f"{ref} is not being loaded")
        return place
