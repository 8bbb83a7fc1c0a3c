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


Example = ChatExample | CompletionExample | TextExample

RowFormat = Literal["messages", "instruction", "completion", "text"]
"""The shapes a file's rows may have. Instruction rows become ChatExamples."""
