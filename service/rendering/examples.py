"""One dataset row each, as parsing yields them and rendering and training take them."""

from typing import Any, Literal

import msgspec

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn. `weight` 0 keeps an assistant turn out of the loss."""

    role: Role
    content: str | None = None
    name: str | None = None
    weight: int | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class ChatExample(msgspec.Struct, frozen=True):
    """A conversation; loss falls on the assistant's turns."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None = None


class CompletionExample(msgspec.Struct, frozen=True):
    """A raw prompt and what follows it; loss falls on the completion."""

    prompt: str
    completion: str


class TextExample(msgspec.Struct, frozen=True):
    """Raw text; loss falls on all of it."""

    text: str


class PreferenceExample(msgspec.Struct, frozen=True):
    """Two answers to one prompt, of which the first is preferred; both are of one kind."""

    preferred: ChatExample | CompletionExample
    other: ChatExample | CompletionExample


class PromptExample(msgspec.Struct, frozen=True):
    """A conversation that waits for an answer, and what a grader may know of it."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None
    item: dict[str, Any]


Example = ChatExample | CompletionExample | TextExample | PreferenceExample | PromptExample

RowFormat = Literal["messages", "instruction", "completion", "text", "preference", "reinforcement"]
"""The shapes a file's rows may have. Instruction rows become ChatExamples."""


def is_chat(example: Example) -> bool:
    """Tell whether it is rendered by the base's chat template."""
    if isinstance(example, PreferenceExample):
        return isinstance(example.preferred, ChatExample)
    return isinstance(example, ChatExample | PromptExample)
