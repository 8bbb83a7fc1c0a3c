"""One decoded JSON value to one example, or the reason why not. Pure."""

from collections.abc import Callable, Mapping
from typing import Any

from service.datasets.messages import conversation, tools_of, turns
from service.datasets.preferences import preferred_messages, preferred_text
from service.datasets.reasons import Unusable, no_other_keys, text_of
from service.rendering.examples import (
    ChatExample,
    CompletionExample,
    Example,
    Message,
    PromptExample,
    RowFormat,
    TextExample,
)

SHAPES = (
    'a row is {"messages": [...]}, {"prompt", "completion"}, {"instruction", "output"} '
    '(optionally with "input"), {"text"}, or for preferences {"input", "preferred_output", '
    '"non_preferred_output"} or {"prompt", "chosen", "rejected"}'
)
OPENAIS_PREFERENCE = frozenset({"preferred_output", "non_preferred_output"})
MESSAGE_KEYS = frozenset({"messages", "tools", "parallel_tool_calls"})
TRLS_PREFERENCE = frozenset({"chosen", "rejected"})

Row = Mapping[str, Any]


def shape_of(row: object) -> RowFormat:
    """Tell a row's shape by its keys; raises Unusable."""
    if not isinstance(row, dict):
        raise Unusable("the line is not a JSON object")
    if _waits_for_an_answer(row.get("messages")):
        return "reinforcement"
    for shape, (telling, _) in _READERS.items():
        if telling & row.keys():
            return shape
    keys = ", ".join(f'"{key}"' for key in list(row)[:10])
    raise Unusable(f"unknown row shape with {f'the keys {keys}' if keys else 'no keys'}: {SHAPES}")


def read(row: Row, shape: RowFormat) -> Example:
    """Read a row of a shape that `shape_of` told; raises Unusable."""
    return _READERS[shape][1](row)


def _waits_for_an_answer(messages: object) -> bool:
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and last.get("role") == "user"


def _preference(row: Row) -> Example:
    return preferred_messages(row) if OPENAIS_PREFERENCE & row.keys() else preferred_text(row)


def _reinforcement(row: Row) -> Example:
    item = {key: value for key, value in row.items() if key not in MESSAGE_KEYS}
    return PromptExample(turns(row["messages"]), tools_of(row.get("tools")), item)


def _messages(row: Row) -> Example:
    no_other_keys(row, MESSAGE_KEYS, "the row")
    return ChatExample(conversation(row["messages"]), tools_of(row.get("tools")))


def _instruction(row: Row) -> Example:
    no_other_keys(row, {"instruction", "input", "output"}, "the row")
    instruction = text_of(row, "instruction")
    given = text_of(row, "input", empty=True) if row.get("input") is not None else ""
    asked = f"{instruction}\n\n{given}" if given else instruction
    return ChatExample([Message("user", asked), Message("assistant", text_of(row, "output"))])


def _completion(row: Row) -> Example:
    no_other_keys(row, {"prompt", "completion"}, "the row")
    return CompletionExample(text_of(row, "prompt", empty=True), text_of(row, "completion"))


def _text(row: Row) -> Example:
    no_other_keys(row, {"text"}, "the row")
    return TextExample(text_of(row, "text"))


_READERS: dict[RowFormat, tuple[frozenset[str], Callable[[Row], Example]]] = {
    "preference": (OPENAIS_PREFERENCE | TRLS_PREFERENCE, _preference),
    "messages": (frozenset({"messages"}), _messages),
    "instruction": (frozenset({"instruction", "output"}), _instruction),
    "completion": (frozenset({"prompt", "completion"}), _completion),
    "text": (frozenset({"text"}), _text),
    # Told by its last message, and not by its keys.
    "reinforcement": (frozenset(), _reinforcement),
}
