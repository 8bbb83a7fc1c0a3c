"""Who still needs a revision's files: requests in flight, from before their model's name is read.

    open (may come to need any revision) -> held (needs one) -> closed

A name is read from rows, and while it is being read the rows may go. So a lease is opened before,
and as long as it is not known what it needs, nothing that is deleted meanwhile is let go. Pure.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Self

import msgspec

from adapters_store import RevisionRef

Then = Callable[[], object]


class _Waiting(msgspec.Struct, eq=False):
    ref: RevisionRef
    holders: set[int]
    then: Then


class Leases:
    """All leases of one process. Each step is atomic: the last reference may go in any thread."""

    def __init__(self) -> None:
        self._number = 0
        self._open: dict[int, RevisionRef | None] = {}
        self._waiting: list[_Waiting] = []

    def __len__(self) -> int:
        """Count the open ones."""
        return len(self._open)

    def open(self) -> "Lease":
        """Begin a lease; whoever has it closes it."""
        self._number += 1
        self._open[self._number] = None
        return Lease(self, self._number)

    def held(self, ref: RevisionRef) -> bool:
        """Tell whether a lease needs the revision, or may come to."""
        return bool(self._holders(ref))

    def needed(self, ref: RevisionRef) -> bool:
        """Tell whether a lease is known to need the revision."""
        return ref in [*self._open.values()]

    def when_free(self, ref: RevisionRef, then: Then) -> None:
        """Do `then` once no lease of now can need the revision, whose name no later one finds."""
        waiting = _Waiting(ref, self._holders(ref), then)
        self._waiting.append(waiting)
        waiting.holders.intersection_update([*self._open])
        self._finish(waiting)

    def hold(self, number: int, ref: RevisionRef | None) -> None:
        """Say what a lease needs: a revision, or none for the base."""
        if ref is None:
            self.close(number)
        elif number in self._open:
            self._open[number] = ref
            self._release(number, but=ref)

    def close(self, number: int) -> None:
        """End a lease; ending it again does nothing."""
        self._open.pop(number, None)
        self._release(number)

    def _holders(self, ref: RevisionRef) -> set[int]:
        return {number for number, needs in [*self._open.items()] if needs in (None, ref)}

    def _release(self, number: int, but: RevisionRef | None = None) -> None:
        for waiting in [*self._waiting]:
            if waiting.ref != but:
                waiting.holders.discard(number)
                self._finish(waiting)

    def _finish(self, waiting: _Waiting) -> None:
        if waiting.holders:
            return
        try:
            self._waiting.remove(waiting)
        except ValueError:
            return  # another thread was faster
        waiting.then()


class Lease:
    """One request's lease. It ends with `close`, with its context, or at the latest with itself."""

    def __init__(self, leases: Leases, number: int) -> None:
        self._leases = leases
        self._number = number

    def hold(self, ref: RevisionRef | None) -> None:
        """Say what is needed; None is the base, which is never deleted."""
        self._leases.hold(self._number, ref)

    def close(self) -> None:
        """Need nothing any more."""
        self._leases.close(self._number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _fault: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # An answer that was made ready and never begun: nobody is left to close it.
        self.close()
