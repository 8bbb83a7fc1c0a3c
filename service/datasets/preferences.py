"""Rows of two answers to one prompt, as OpenAI writes them and as TRL does. Pure."""

from collections.abc import Mapping
from typing import Any

import msgspec

from service.datasets.messages import tools_of, turns
from service.datasets.reasons import Unusable, no_other_keys, text_of
from service.rendering.examples import ChatExample, CompletionExample, Message, PreferenceExample

PREFERRED, OTHER = "preferred_output", "non_preferred_output"

Row = Mapping[str, Any]


def preferred_messages(row: Row) -> PreferenceExample:
    """Read {"input", "preferred_output", "non_preferred_output"}; raises Unusable."""
    no_other_keys(row, {"input", PREFERRED, OTHER}, "the row")
    given = row.get("input")
    if not isinstance(given, dict):
        raise Unusable('"input" must be an object with "messages"')
    no_other_keys(given, {"messages", "tools", "parallel_tool_calls"}, "input")
    asked = turns(given.get("messages"), "input.messages")
    if asked[-1].role == "assistant":
        raise Unusable("input.messages ends with an answer: the answers are the two outputs")
    tools = tools_of(given.get("tools"))
    # What was answered before is only read: the preference is about the last answer.
    before = [_unweighted(message) for message in asked]
    preferred, other = (
        ChatExample([*before, *_answer(row, key)], tools) for key in (PREFERRED, OTHER)
    )
    return _differing(preferred, other)


def preferred_text(row: Row) -> PreferenceExample:
    """Read {"prompt", "chosen", "rejected"} of plain text; raises Unusable."""
    no_other_keys(row, {"prompt", "chosen", "rejected"}, "the row")
    prompt = text_of(row, "prompt", empty=True)
    preferred, other = (CompletionExample(prompt, text_of(row, k)) for k in ("chosen", "rejected"))
    return _differing(preferred, other)


def _answer(row: Row, key: str) -> list[Message]:
    if key not in row:
        raise Unusable(f'"{key}" is missing')
    answer = turns(row[key], key)
    if answer[-1].role != "assistant":
        raise Unusable(f"{key} must end with a message of the role assistant")
    if any(message.weight == 0 for message in answer):
        raise Unusable(f"{key} has a message of weight 0, but both answers are compared whole")
    return answer


def _unweighted(message: Message) -> Message:
    if message.role != "assistant":
        return message
    return msgspec.structs.replace(message, weight=0)


def _differing(
    preferred: ChatExample | CompletionExample, other: ChatExample | CompletionExample
) -> PreferenceExample:
    if preferred == other:
        raise Unusable("both answers are the same, so neither is preferred")
    return PreferenceExample(preferred, other)
