"""How a base writes calls of functions: found by having its chat template write one. Pure."""

import json
import re
from typing import Literal

from service.rendering.examples import Message
from service.rendering.template import ChatTemplate, RenderingError

ToolFormat = Literal["hermes", "llama3_json"]
"""`hermes` is also Qwen 2.5's and 3's: `<tool_call>` and `</tool_call>` around a JSON object of
`name` and `arguments`. `llama3_json` is Llama 3.1's to 3.3's: an object of `name` and
`parameters` is the whole answer."""

MARKS: dict[ToolFormat, tuple[str, ...]] = {
    "hermes": ("<tool_call>", "</tool_call>"),
    "llama3_json": (),
}
"""What stands around calls. Of most bases these are tokens of their own."""

_ASK = Message("user", "probe")
_TOOL = {
    "type": "function",
    "function": {
        "name": "probe_tool",
        "description": "probe",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
_CALL = Message(
    "assistant",
    "",
    tool_calls=[
        {
            "id": "probe0000",
            "type": "function",
            "function": {"name": "probe_tool", "arguments": '{"a": 1}'},
        }
    ],
)
_HERMES = re.compile(r"<tool_call>\s*(\{.*\})\s*</tool_call>", re.DOTALL)
_LLAMA3 = re.compile(r"\s*(\{.*\})", re.DOTALL)


def tool_format(template: ChatTemplate) -> ToolFormat | None:
    """Tell how the template writes calls; None if it names no tools, or in a way unknown here."""
    try:
        prompt = template.render([_ASK], [_TOOL], generation_prompt=True)
        whole = template.render([_ASK, _CALL], [_TOOL], generation_prompt=False)
    except RenderingError:
        return None
    if "probe_tool" not in prompt:
        return None
    answer = whole.removeprefix(prompt)
    if _has(_HERMES.search(answer), "arguments"):
        return "hermes"
    return "llama3_json" if _has(_LLAMA3.match(answer), "parameters") else None


def _has(call: re.Match[str] | None, key: str) -> bool:
    try:
        return call is not None and json.loads(call[1]) == {"name": "probe_tool", key: {"a": 1}}
    except ValueError:
        return False
