"""Calls as Mistral's models write them, in both ways they do. Pure."""

import re
from collections.abc import Iterator

from service.serving.call_events import Event, Reader, merged
from service.serving.call_objects import NAME, CallObject
from service.serving.stopping import StopMatcher

MARK = "[TOOL_CALLS]"
_LONGEST = 200
"""Characters of what comes before a call's object."""
_ARRAY = re.compile(r"\s*\[?\s*\{")
_NAMED = re.compile(rf"\s*({NAME})\s*(?:\[CALL_ID\]\s*\w+\s*)?(?:\[ARGS\])?\s*\{{")
_HEAD = re.compile(r"[\w.\-\[\]\s]")


class MistralReader(Reader):
    """Reads `[TOOL_CALLS][{...}, {...}]`, and `[TOOL_CALLS]name[ARGS]{...}` any number of times."""

    def __init__(self) -> None:
        super().__init__()
        self._opening = StopMatcher([MARK])
        self._held = ""
        self._state = self._text

    def end(self) -> list[Event]:
        """Give what was held back; a call that was cut stays one."""
        held = self._opening.flush()
        if self._state == self._head:
            held = self._held
        elif self._state == self._call and self._object.name is None:
            held = self._held + self._object.held
        return merged([*self._say(held), *self._rest()])

    def _text(self, character: str) -> Iterator[Event]:
        yield from self._say(self._opening.add(character))
        if self._opening.stopped:
            self._opening, self._held = StopMatcher([MARK]), MARK
            self._state = self._head

    def _head(self, character: str) -> Iterator[Event]:
        self._held += character
        head = self._held.removeprefix(MARK)
        if named := _NAMED.fullmatch(head):
            yield self._begin(named[1])
            yield from self._open(character, CallObject(named[1]))
        elif _ARRAY.fullmatch(head):
            self._held = self._held.removesuffix(character)
            yield from self._open(character, CallObject())
        elif not _HEAD.match(character) or len(head) > _LONGEST:
            yield from self._say(MARK)
            yield from self._again(head)

    def _open(self, character: str, call: CallObject) -> Iterator[Event]:
        self._object, self._alone, self._state = call, call.name is not None, self._call
        yield from self._call(character)

    def _call(self, character: str) -> Iterator[Event]:
        yield from self._read(character)
        if not self._object.over:
            return
        if self._object.name is None:
            yield from self._say(self._held + self._object.held)
        self._held = ""
        among = self._object.name is not None and not self._alone
        self._state = self._among if among else self._text

    def _among(self, character: str) -> Iterator[Event]:
        """Take what stands between the objects of an array."""
        if character == "{":
            yield from self._open(character, CallObject())
        elif character == "]":
            self._state = self._text
        elif character.isspace() or character == ",":
            self._held += character
        else:
            yield from self._again(self._held + character)
