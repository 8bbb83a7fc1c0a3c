"""How a base writes calls of functions: found by having its chat template write one. Pure."""

import json
import re
from typing import Any, Literal

import msgspec

from service.rendering.examples import Message
from service.rendering.template import ChatTemplate, RenderingError

ToolFormat = Literal["hermes", "llama3_json", "mistral_json", "mistral_args", "qwen3_coder"]
"""`hermes` is also Qwen 2.5's and 3's: `<tool_call>` and `</tool_call>` around a JSON object of
`name` and `arguments`. `llama3_json` is Llama 3.1's to 3.3's: an object of `name` and
`parameters` is the whole answer. `mistral_json` is Mistral's up to its seventh tokenizer:
`[TOOL_CALLS]` and an array of objects of `name` and `arguments`, perhaps with an `id`.
`mistral_args` is its later ones': `[TOOL_CALLS]`, the name, `[ARGS]` and the arguments, perhaps
with `[CALL_ID]` and an id before `[ARGS]`. `qwen3_coder` is also Qwen 3.5's and later ones', and
Nemotron 3's: `<function=name>` and `<parameter=key>` around texts, in `<tool_call>`."""

MARKS: dict[ToolFormat, tuple[str, ...]] = {
    "hermes": ("<tool_call>", "</tool_call>"),
    "llama3_json": (),
    "mistral_json": ("[TOOL_CALLS]",),
    "qwen3_coder": ("<tool_call>", "</tool_call>"),
    "mistral_args": ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
}
"""What stands around calls. Of most bases these are tokens of their own."""


class CallTokens(msgspec.Struct, frozen=True):
    """What of a base's vocabulary a grammar must name, as no letters are it."""

    marks: dict[str, int] = {}
    """The marks of calls that are tokens of their own: the base was taught these."""
    words: list[int] = []
    """Added tokens that any text may hold, as `<think>` often is one."""


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
_QWEN3_CODER = re.compile(
    r"<tool_call>\s*<function=probe_tool>\s*<parameter=a>\s*1\s*</parameter>\s*</function>"
    r"\s*</tool_call>"
)
_MISTRAL_JSON = re.compile(r"\[TOOL_CALLS\]\s*\[(\{.*\})\]", re.DOTALL)
_MISTRAL_ARGS = re.compile(
    r"\[TOOL_CALLS\]probe_tool(?:\[CALL_ID\]probe0000)?\[ARGS\](\{.*?\})", re.DOTALL
)
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
    return _format_of(whole.removeprefix(prompt))


def _format_of(answer: str) -> ToolFormat | None:
    arguments = {"a": 1}
    call = {"name": "probe_tool", "arguments": arguments}
    if _object(_HERMES.search(answer)) == call:
        return "hermes"
    if _QWEN3_CODER.search(answer):
        return "qwen3_coder"
    if _object(_MISTRAL_JSON.search(answer)) in (call, {**call, "id": "probe0000"}):
        return "mistral_json"
    if _object(_MISTRAL_ARGS.search(answer)) == arguments:
        return "mistral_args"
    if _object(_LLAMA3.match(answer)) == {"name": "probe_tool", "parameters": arguments}:
        return "llama3_json"
    return None


def _object(found: re.Match[str] | None) -> Any:
    try:
        return None if found is None else json.loads(found[1])
    except ValueError:
        return None
