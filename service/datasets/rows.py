"""One decoded JSON value to one example, or the reason why not. Pure."""

from collections.abc import Callable, Mapping
from typing import Any

from service.datasets.messages import conversation, tools_of
from service.datasets.reasons import Unusable, no_other_keys, text_of
from service.rendering.examples import (
    ChatExample,
    CompletionExample,
    Example,
    Message,
    RowFormat,
    TextExample,
)

SHAPES = (
    'a row is {"messages": [...]}, {"prompt", "completion"}, {"instruction", "output"} '
    '(optionally with "input") or {"text"}'
)
# What tells preference rows: OpenAI's own form, and TRL's.
PREFERENCE = frozenset({"preferred_output", "non_preferred_output", "chosen", "rejected"})

Row = Mapping[str, Any]


def shape_of(row: object) -> RowFormat:
    """Tell a row's shape by its keys; raises Unusable."""
    if not isinstance(row, dict):
        raise Unusable("the line is not a JSON object")
    if PREFERENCE & row.keys():
        raise Unusable("preference rows (for DPO) are not supported yet")
    for shape, (telling, _) in _READERS.items():
        if telling & row.keys():
            return shape
    keys = ", ".join(f'"{key}"' for key in list(row)[:10])
    raise Unusable(f"unknown row shape with {f'the keys {keys}' if keys else 'no keys'}: {SHAPES}")


def read(row: Row, shape: RowFormat) -> Example:
    """Read a row of a shape that `shape_of` told; raises Unusable."""
    return _READERS[shape][1](row)


def _messages(row: Row) -> Example:
    no_other_keys(row, {"messages", "tools", "parallel_tool_calls"}, "the row")
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
    "messages": (frozenset({"messages"}), _messages),
    "instruction": (frozenset({"instruction", "output"}), _instruction),
    "completion": (frozenset({"prompt", "completion"}), _completion),
    "text": (frozenset({"text"}), _text),
}
