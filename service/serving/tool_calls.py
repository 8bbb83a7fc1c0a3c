"""Calls of functions, read from an answer's text while it arrives. Pure.

Readers go on by characters, so what is read does not depend on how the text was cut into pieces.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import msgspec

from service.rendering.tool_format import ToolFormat
from service.serving.call_objects import CallObject
from service.serving.stopping import StopMatcher

OPEN, CLOSE = "<tool_call>", "</tool_call>"


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


def call_reader(form: ToolFormat) -> CallReader:
    """Make a reader of what a base writes."""
    return HermesReader() if form == "hermes" else Llama3Reader()


class _Reader:
    _state: Callable[[str], Iterator[Event]]

    def __init__(self) -> None:
        self._calls = 0
        self._space = ""
        self._object = CallObject()

    def add(self, text: str) -> list[Event]:
        """Take more of the text; give what is certain by it."""
        return _merged(event for character in text for event in self._state(character))

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
            self._space = ""
            self._calls += 1
            yield Called(self._calls - 1, self._object.name)
        if arguments:
            yield Argued(self._calls - 1, arguments)


class HermesReader(_Reader):
    """Reads any number of `<tool_call>{...}</tool_call>`, anywhere in a text."""

    def __init__(self) -> None:
        super().__init__()
        self._opening = StopMatcher([OPEN])
        self._closing = ""
        self._state = self._text

    def end(self) -> list[Event]:
        """Give what was held back; a call that was cut stays one."""
        held = self._opening.flush()
        if self._state == self._call and self._object.name is None:
            held = OPEN + self._object.held
        return _merged([*self._say(held), *self._rest()])

    def _text(self, character: str) -> Iterator[Event]:
        yield from self._say(self._opening.add(character))
        if self._opening.stopped:
            self._opening, self._object = StopMatcher([OPEN]), CallObject()
            self._state = self._call

    def _call(self, character: str) -> Iterator[Event]:
        # Nothing that JSON knows: an object that was never closed ends here.
        broken = character == "<" and not self._object.in_string
        if not broken:
            yield from self._read(character)
        if not broken and not self._object.over:
            return
        if self._object.name is None:
            yield from self._say(OPEN + self._object.held)
            self._state = self._text
        else:
            self._closing, self._state = "", self._after
        if broken:
            yield from self._state(character)

    def _after(self, character: str) -> Iterator[Event]:
        self._closing = (self._closing + character).lstrip(" \t\r\n}")
        if CLOSE.startswith(self._closing):
            if self._closing == CLOSE:
                self._state = self._text
            return
        # It was not closed; what comes instead is read as text, and may open the next one.
        self._state = self._text
        for again in self._closing:
            yield from self._state(again)


class Llama3Reader(_Reader):
    """Reads an answer that is an object, or some with semicolons between; others are text."""

    def __init__(self) -> None:
        super().__init__()
        self._state = self._between

    def end(self) -> list[Event]:
        """Give what was held back; a call that was cut stays one."""
        unsaid = self._state == self._call and self._object.name is None
        return _merged([*self._say(self._object.held if unsaid else ""), *self._rest()])

    def _between(self, character: str) -> Iterator[Event]:
        if character == "{":
            self._object, self._state = CallObject(), self._call
        elif character.isspace() or (character == ";" and self._calls):
            self._space += character
            return
        else:
            self._state = self._text
        yield from self._state(character)

    def _call(self, character: str) -> Iterator[Event]:
        yield from self._read(character)
        if not self._object.over:
            return
        self._state = self._between
        if self._object.name is None:
            yield from self._say(self._object.held)
            self._state = self._text

    def _text(self, character: str) -> Iterator[Event]:
        return self._say(character)


def _merged(events: Iterable[Event]) -> list[Event]:
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
