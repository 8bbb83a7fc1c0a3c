"""From messages on the wire to the turns that the renderer takes. Pure."""

from collections.abc import Sequence
from typing import Any

from service.errors import BadRequest, UnsupportedField
from service.rendering.examples import Message
from service.serving import refusals
from service.serving.chat_schemas import ChatMessage, ContentPart
from service.serving.shape_schemas import GivenCall


def conversation(messages: Sequence[ChatMessage]) -> list[Message]:
    """Read the turns as the renderer takes them."""
    turns = [_message(message, f"messages[{place}]") for place, message in enumerate(messages)]
    _check_answered(messages)
    return turns


def _message(message: ChatMessage, path: str) -> Message:
    refusals.refuse(message, refusals.MESSAGE, path)
    if message.tool_calls and message.role != "assistant":
        raise BadRequest("Only an assistant calls tools.", param=f"{path}.tool_calls")
    if message.role == "tool" and message.tool_call_id is None:
        raise BadRequest("A tool message needs it.", param=f"{path}.tool_call_id")
    if message.role == "function" and message.name is None:
        raise BadRequest("A function message needs it.", param=f"{path}.name")
    return Message(
        role=message.role,
        content=_content(message, f"{path}.content"),
        name=message.name,
        tool_calls=[_call(call) for call in message.tool_calls or ()] or None,
        tool_call_id=message.tool_call_id,
    )


def _call(call: GivenCall) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": call.function.arguments}
    return {"id": call.id, "type": call.type, "function": function}


def _check_answered(messages: Sequence[ChatMessage]) -> None:
    """Raise BadRequest unless each call has one answer, right after the message that made it."""
    awaited: set[str] = set()
    for place, message in enumerate(messages):
        if message.role == "tool" and message.tool_call_id is not None:
            if message.tool_call_id not in awaited:
                raise BadRequest(
                    "It answers no call of the assistant's message before.",
                    param=f"messages[{place}].tool_call_id",
                )
            awaited.discard(message.tool_call_id)
            continue
        _check_none(awaited, f"messages[{place}]")
        awaited = {call.id for call in message.tool_calls or ()}
    _check_none(awaited, "messages")


def _check_none(awaited: set[str], param: str) -> None:
    if awaited:
        raise BadRequest(
            "Each call of 'tool_calls' must be answered by a 'tool' message right after it; "
            f"these are not: {', '.join(sorted(awaited))}.",
            param=param,
        )


def _content(message: ChatMessage, path: str) -> str | None:
    match message.content:
        case str() as text:
            return text
        case None:
            if message.tool_calls:
                return None
            raise BadRequest(f"A {message.role} message needs content.", param=path)
        case parts if not parts:
            raise BadRequest("It needs at least one part.", param=path)
        case parts:
            return "".join(_text(part, f"{path}[{place}]") for place, part in enumerate(parts))


def _text(part: ContentPart, path: str) -> str:
    if part.type != "text":
        raise UnsupportedField(
            f"Content parts of type '{part.type}' are not supported by this server.",
            param=f"{path}.type",
        )
    if part.text is None:
        raise BadRequest("A text part needs it.", param=f"{path}.text")
    return part.text
