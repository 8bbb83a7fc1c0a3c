"""Calls as Qwen 3 Coder writes them: arguments are texts between tags. Pure."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from service.serving.call_events import Argued, Event, Reader, merged
from service.serving.call_objects import NAME
from service.serving.parameters import CLOSE, argument, types_of
from service.serving.stopping import StopMatcher

OPEN, END = "<tool_call>", "</tool_call>"
_FUNCTION = re.compile(rf"\s*<function=({NAME})>")
_PARAMETER = re.compile(r"<parameter=([^<>\n]+)>")
_OVER = "</function>"
_LONGEST = 300
"""Characters of a tag."""


class CoderReader(Reader):
    """Reads any number of `<tool_call><function=name>...</function></tool_call>`, in a text.

    Of a string each character goes on as it comes; what else an argument is, its end tells.
    """

    def __init__(self, functions: Mapping[str, Any]) -> None:
        super().__init__()
        self._functions = functions
        self._opening = StopMatcher([OPEN])
        self._held = ""
        self._state = self._text

    def end(self) -> list[Event]:
        """Give what was held back; a call that was cut stays one."""
        held = self._opening.flush()
        if self._state == self._head:
            held = OPEN + self._held
        said = [*self._say(held), *self._rest()]
        if self._state == self._value:
            said += self._argue(self._add(self._closing.flush()))
        return merged(said)

    def _text(self, character: str) -> Iterator[Event]:
        yield from self._say(self._opening.add(character))
        if self._opening.stopped:
            self._opening, self._held = StopMatcher([OPEN]), ""
            self._state = self._head

    def _head(self, character: str) -> Iterator[Event]:
        self._held += character
        if function := _FUNCTION.fullmatch(self._held):
            self._schema = self._functions.get(function[1]) or {}
            self._between, self._held, self._state = "", "", self._tags
            yield self._begin(function[1])
            yield from self._argue("{")
        elif character == ">" or len(self._held) > _LONGEST:
            yield from self._say(OPEN)
            yield from self._again(self._held)

    def _tags(self, character: str) -> Iterator[Event]:
        """Take what stands between arguments."""
        self._held = (self._held + character).lstrip()
        if parameter := _PARAMETER.fullmatch(self._held):
            yield from self._argue(f"{self._between}{json.dumps(parameter[1])}: ")
            self._between, self._held, self._state = ", ", "", self._value
            yield from self._open(parameter[1])
        elif self._held == _OVER:
            yield from self._argue("}")
            self._held, self._state = "", self._after
        elif not self._may_be_a_tag():
            yield from self._argue("}")
            yield from self._again(self._held)

    def _may_be_a_tag(self) -> bool:
        head = "<parameter="
        parameter = head.startswith(self._held[: len(head)]) and self._held[-1:] not in "\n>"
        return len(self._held) < _LONGEST and (parameter or _OVER.startswith(self._held))

    def _open(self, name: str) -> Iterator[Event]:
        properties = self._schema.get("properties")
        schema = properties.get(name) if isinstance(properties, dict) else None
        self._types = types_of(schema, self._schema)
        self._begun, self._raw = False, ""
        self._closing = StopMatcher([CLOSE, "\n" + CLOSE])
        yield from self._argue('"' if self._types == {"string"} else "")

    def _value(self, character: str) -> Iterator[Event]:
        begun, self._begun = self._begun, True
        if character == "\n" and not begun:
            return
        yield from self._argue(self._add(self._closing.add(character)))
        if self._closing.stopped:
            text = self._types == {"string"}
            yield from self._argue('"' if text else argument(self._raw, self._types))
            self._state = self._tags

    def _add(self, text: str) -> str:
        """Take more of an argument; give what can be said of it before its end."""
        if self._types == {"string"}:
            return json.dumps(text, ensure_ascii=False)[1:-1]
        self._raw += text
        return ""

    def _after(self, character: str) -> Iterator[Event]:
        self._held = (self._held + character).lstrip()
        if self._held == END:
            self._state = self._text
        elif not END.startswith(self._held):
            yield from self._again(self._held)

    def _argue(self, arguments: str) -> Iterator[Event]:
        if arguments:
            yield Argued(self._calls - 1, arguments)
