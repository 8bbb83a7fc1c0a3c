"""What a reader finds in an answer, and what the readers of all formats share. Pure."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import msgspec

from service.serving.call_objects import CallObject


class Said(msgspec.Struct, frozen=True):
    """Text that calls nothing."""

    text: str


class Called(msgspec.Struct, frozen=True):
    """A call has begun."""

    index: int
    name: str


class Argued(msgspec.Struct, frozen=True):
    """More of a call's arguments, as the model writes them."""

    index: int
    arguments: str


Event = Said | Called | Argued


class CallReader(Protocol):
    """Reads one answer. What only looked like a call comes out as text, and nothing is lost but
    the marks of calls and the white space around them."""

    def add(self, text: str) -> list[Event]:
        """Take more of the text; give what is certain by it."""
        ...

    def end(self) -> list[Event]:
        """Give what was held back, the answer having ended."""
        ...


Reading = Callable[[], CallReader]
"""Makes a reader for each answer."""


class Reader:
    """What readers share: text, and the objects of calls."""

    _state: Callable[[str], Iterator[Event]]
    _text: Callable[[str], Iterator[Event]]
    """The state outside of calls."""

    def __init__(self) -> None:
        self._calls = 0
        self._space = ""
        self._object = CallObject()

    def add(self, text: str) -> list[Event]:
        """Take more of the text; give what is certain by it."""
        return merged(event for character in text for event in self._state(character))

    def _say(self, text: str) -> Iterator[Event]:
        """Let text out, but for white space that may be the last before a call."""
        text = self._space + text
        said = text.rstrip()
        self._space = text[len(said) :]
        if said:
            yield Said(said)

    def _rest(self) -> Iterator[Event]:
        if self._space and not self._calls:
            yield Said(self._space)

    def _read(self, character: str) -> Iterator[Event]:
        """Take a character of a call's object."""
        known = self._object.name is not None
        arguments = self._object.add(character)
        if not known and self._object.name is not None:
            yield self._begin(self._object.name)
        if arguments:
            yield Argued(self._calls - 1, arguments)

    def _again(self, held: str) -> Iterator[Event]:
        """Read as text what was held for a call, and is none: the next may begin in it."""
        self._state = self._text
        for character in held:
            yield from self._state(character)

    def _begin(self, name: str) -> Called:
        self._space = ""
        self._calls += 1
        return Called(self._calls - 1, name)


def merged(events: Iterable[Event]) -> list[Event]:
    """Put what belongs together into one event."""
    merged: list[Event] = []
    for event in events:
        match merged[-1:], event:
            case [Said(before)], Said(text):
                merged[-1] = Said(before + text)
            case [Argued(index, before)], Argued(same, text) if index == same:
                merged[-1] = Argued(index, before + text)
            case _:
                merged.append(event)
    return merged
