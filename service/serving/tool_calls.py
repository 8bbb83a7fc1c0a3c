"""Calls of functions, read from an answer's text while it arrives. Pure.

Readers go on by characters, so what is read does not depend on how the text was cut into pieces.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from service.rendering.tool_format import ToolFormat
from service.serving.call_events import CallReader, Event, Reader, merged
from service.serving.call_objects import CallObject
from service.serving.coder_calls import CoderReader
from service.serving.mistral_calls import MistralReader
from service.serving.stopping import StopMatcher

OPEN, CLOSE = "<tool_call>", "</tool_call>"


def call_reader(form: ToolFormat, functions: Mapping[str, Any]) -> CallReader:
    """Make a reader of what a base writes: calls of functions whose arguments have a schema."""
    match form:
        case "hermes":
            return HermesReader()
        case "llama3_json":
            return Llama3Reader()
        case "mistral_json" | "mistral_args":
            return MistralReader()
        case "qwen3_coder":
            return CoderReader(functions)


class HermesReader(Reader):
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
        return merged([*self._say(held), *self._rest()])

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
        yield from self._again(self._closing)


class Llama3Reader(Reader):
    """Reads an answer that is an object, or some with semicolons between; others are text."""

    def __init__(self) -> None:
        super().__init__()
        self._state = self._between

    def end(self) -> list[Event]:
        """Give what was held back; a call that was cut stays one."""
        unsaid = self._state == self._call and self._object.name is None
        return merged([*self._say(self._object.held if unsaid else ""), *self._rest()])

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
