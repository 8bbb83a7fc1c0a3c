"""A row's `messages` and `tools`, as OpenAI writes them. Pure."""

from typing import Any, get_args

from service.datasets.reasons import Unusable, no_other_keys
from service.rendering.examples import Message, Role

ROLES: tuple[Role, ...] = get_args(Role)
KEYS = frozenset({"role", "content", "name", "weight", "tool_calls", "tool_call_id"})
# Members of OpenAI's own messages, which exports write out empty.
EMPTY_ONLY = frozenset({"refusal", "audio", "annotations", "function_call"})

Json = dict[str, Any]


def turns(given: object, where: str = "messages") -> list[Message]:
    """Read a list of messages; raises Unusable."""
    if not isinstance(given, list) or not given:
        raise Unusable(f'"{where}" must be a list of at least one message')
    return [_message(value, f"{where}[{index}]") for index, value in enumerate(given)]


def conversation(given: object) -> list[Message]:
    """Read a list of messages that holds something to learn; raises Unusable."""
    messages = turns(given)
    answers = [message for message in messages if message.role == "assistant"]
    if not answers:
        raise Unusable("no message has the role assistant, so there is nothing to learn")
    if all(message.weight == 0 for message in answers):
        raise Unusable("every assistant message has weight 0, so there is nothing to learn")
    return messages


def tools_of(given: object) -> list[Json] | None:
    """Read the functions that the conversation may call; raises Unusable."""
    if given is None:
        return None
    if not isinstance(given, list) or not all(isinstance(tool, dict) for tool in given):
        raise Unusable('"tools" must be a list of objects')
    return given


def _message(given: object, where: str) -> Message:
    if not isinstance(given, dict):
        raise Unusable(f"{where} must be an object")
    message = {key: value for key, value in given.items() if value or key not in EMPTY_ONLY}
    no_other_keys(message, KEYS, where)
    role = _role(message.get("role"), where)
    calls = _tool_calls(message.get("tool_calls"), role, where)
    return Message(
        role=role,
        content=_content(message.get("content"), role, calls, where),
        name=_optional_text(message, "name", where),
        weight=_weight(message, role, where),
        tool_calls=calls,
        tool_call_id=_optional_text(message, "tool_call_id", where),
    )


def _role(given: object, where: str) -> Role:
    for role in ROLES:
        if given == role:
            return role
    raise Unusable(f"{where}.role must be one of {', '.join(ROLES)}")


def _content(given: object, role: str, calls: list[Json] | None, where: str) -> str | None:
    if given is None and calls:
        return None
    content = _joined(given, where) if isinstance(given, list) else given
    if not isinstance(content, str):
        raise Unusable(f"{where}.content must be a string or a list of text parts")
    if role == "assistant" and not calls and not content.strip():
        raise Unusable(f"{where}.content is empty: an assistant message must say something")
    return content


def _joined(parts: list[Any], where: str) -> str:
    return "".join(_part(part, f"{where}.content[{index}]") for index, part in enumerate(parts))


def _part(part: object, where: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        raise Unusable(f'{where} is not a text part: only {{"type": "text"}} is supported')
    no_other_keys(part, {"type", "text"}, where)
    text = part.get("text")
    if not isinstance(text, str):
        raise Unusable(f"{where}.text must be a string")
    return text


def _weight(message: Json, role: str, where: str) -> int | None:
    weight = message.get("weight")
    if weight is None:
        return None
    if role != "assistant":
        raise Unusable(f"{where}.weight is set, but only assistant messages have a weight")
    if isinstance(weight, bool) or not isinstance(weight, int) or weight not in (0, 1):
        raise Unusable(f"{where}.weight must be 0 or 1")
    return weight


def _tool_calls(given: object, role: str, where: str) -> list[Json] | None:
    if given is None or given == []:
        return None
    if role != "assistant":
        raise Unusable(f"{where}.tool_calls is set, but only assistant messages call tools")
    if not isinstance(given, list) or not all(_is_call(call) for call in given):
        raise Unusable(
            f'{where}.tool_calls must be a list of {{"id", "type": "function", '
            '"function": {"name", "arguments"}}'
        )
    return given


def _is_call(call: object) -> bool:
    function = call.get("function") if isinstance(call, dict) else None
    return (
        isinstance(function, dict)
        and isinstance(function.get("name"), str)
        and isinstance(function.get("arguments"), str | dict)
    )


def _optional_text(message: Json, key: str, where: str) -> str | None:
    value = message.get(key)
    if value is not None and not isinstance(value, str):
        raise Unusable(f"{where}.{key} must be a string")
    return value
