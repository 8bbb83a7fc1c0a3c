"""One call's JSON object, taken character by character. Pure."""

import json
import re

NAME = r"[A-Za-z0-9_.-]{1,64}"
"""What functions may be called."""
_HEAD = re.compile(
    rf'\s*\{{\s*"name"\s*:\s*"(?P<name>{NAME})"\s*,'
    r'\s*"(?:arguments|parameters)"\s*:\s*\{'
)


class CallObject:
    """The object of `name` and `arguments`, or `parameters`; of the latter alone, given a `name`.

    It is certain to be a call once a name and the beginning of arguments were read, or the whole
    of it where they stand in another order; until then it is `held`.
    """

    def __init__(self, name: str | None = None) -> None:
        self.held = ""
        self.name = name
        self.over = False
        """Whether no more of the text is part of it."""
        self.in_string = False
        self._escaped = False
        self._argues = name is not None
        self._around = int(name is None)
        self._depth = 0

    def add(self, character: str) -> str:
        """Take a character; give what the arguments have more by it."""
        self._scan(character)
        if self._argues:
            self._argues = self._depth > self._around
            return character
        if self.name is not None:
            return ""
        self.held += character
        return self._recognised(character)

    def _scan(self, character: str) -> None:
        if self.in_string:
            self.in_string = self._escaped or character != '"'
            self._escaped = character == "\\" and not self._escaped
            return
        self.in_string = character == '"'
        self._depth += (character in "{[") - (character in "}]")
        self.over = self._depth < 1 and not character.isspace()

    def _recognised(self, character: str) -> str:
        if character == "{" and self._depth == 2 and (head := _HEAD.fullmatch(self.held)):
            self.name, self._argues = head["name"], True
            return character
        if self.over and (call := _call_in(self.held)):
            self.name, arguments = call
            return arguments
        return ""


def _call_in(text: str) -> tuple[str, str] | None:
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict):
        return None
    name, arguments = call.get("name"), call.get("arguments", call.get("parameters", {}))
    if not isinstance(name, str) or not re.fullmatch(NAME, name) or not isinstance(arguments, dict):
        return None
    return name, json.dumps(arguments)
