"""What a revision is called inside an engine. Pure."""

import hashlib

from adapters_store import RevisionRef


def engine_name(ref: RevisionRef) -> str:
    """Derive its name: no other tenant, adapter or content ever has it."""
    whole = f"{ref.tenant}/{ref.adapter}/{ref.digest}"
    return "r" + hashlib.sha256(whole.encode()).hexdigest()


class NumberTaken(Exception):
    """A number, or a revision, is to be what it is not: somebody's books are wrong."""


class Numbers:
    """Which number is which revision's, for an engine that knows adapters by numbers.

    One revision, one number, for as long as the engine lives.
    """

    def __init__(self) -> None:
        self._numbers: dict[RevisionRef, int] = {}
        self._refs: dict[int, RevisionRef] = {}

    def get(self, ref: RevisionRef) -> int | None:
        """Give a revision's number, if it is known."""
        return self._numbers.get(ref)

    def learn(self, ref: RevisionRef, number: int) -> None:
        """Note that a number is this revision's. Raises NumberTaken if either has another."""
        if number < 1:
            raise NumberTaken(f"{number} is nobody's number")
        if self._numbers.get(ref, number) != number or self._refs.get(number, ref) != ref:
            raise NumberTaken(f"{number} cannot be {ref}'s: one of the two has another already")
        self._numbers[ref], self._refs[number] = number, ref
