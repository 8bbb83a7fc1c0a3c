"""From `response_format` and `tools` on the wire to the answer's shape. Pure; faults are named."""

from collections.abc import Sequence
from typing import Any

from service.errors import BadRequest, MissingParameter, UnsupportedField
from service.serving.chat_schemas import ChatRequest
from service.serving.lark import ANY_OBJECT
from service.serving.shape_schemas import FunctionDefinition, NamedTool, ResponseFormat, Tool
from service.serving.shapes import Calls, Document, Offered, Shape


def shape_of(body: ChatRequest) -> Shape:
    """Read what the answer is to be."""
    return Shape(document=_document(body.response_format), calls=_calls(body))


def tools_of(body: ChatRequest) -> list[dict[str, Any]] | None:
    """Read the functions that the chat template is to show."""
    functions = [_function(tool, place) for place, tool in enumerate(body.tools or ())]
    return [{"type": "function", "function": _shown(function)} for function in functions] or None


def _document(wanted: ResponseFormat | None) -> Document | None:
    path = "response_format.json_schema"
    if wanted is None:
        return None
    if wanted.type != "json_schema":
        if wanted.json_schema is not None:
            raise BadRequest(f"'{path}' goes with the type 'json_schema' only.", param=path)
        return None if wanted.type == "text" else Document(ANY_OBJECT, "response_format")
    if wanted.json_schema is None:
        raise MissingParameter(path)
    if wanted.json_schema.schema is None:
        raise MissingParameter(f"{path}.schema")
    return Document(wanted.json_schema.schema, f"{path}.schema")


def _calls(body: ChatRequest) -> Calls | None:
    choice = body.tool_choice
    if not body.tools:
        if choice is None or choice in ("none", "auto"):
            return None
        raise BadRequest("'tool_choice' needs 'tools'.", param="tool_choice")
    offered = [_offered(tool, place) for place, tool in enumerate(body.tools)]
    _check_names(offered)
    if isinstance(choice, NamedTool):
        return Calls(functions=[_named(choice, offered)], one=True, forced=True)
    if choice == "none":
        return None
    one = body.parallel_tool_calls is False
    return Calls(functions=offered, one=one, forced=choice == "required")


def _offered(tool: Tool, place: int) -> Offered:
    function, param = _function(tool, place), f"tools[{place}].function.parameters"
    schema = function.parameters
    if schema is not None and schema.get("type", "object") != "object":
        raise BadRequest("Arguments are an object: its 'type' must be 'object'.", param=param)
    return Offered(
        name=function.name,
        parameters=None if schema is None else {"type": "object", **schema},
        strict=bool(function.strict),
        param=param,
    )


def _function(tool: Tool, place: int) -> FunctionDefinition:
    if tool.type != "function":
        raise _unsupported(f"A tool of type '{tool.type}'", f"tools[{place}].type")
    if tool.custom is not None:
        raise _unsupported("'custom'", f"tools[{place}].custom")
    if tool.function is None:
        raise MissingParameter(f"tools[{place}].function")
    return tool.function


def _named(choice: NamedTool, offered: Sequence[Offered]) -> Offered:
    if choice.type != "function":
        raise _unsupported(f"A choice of type '{choice.type}'", "tool_choice.type")
    if choice.function is None:
        raise MissingParameter("tool_choice.function")
    for function in offered:
        if function.name == choice.function.name:
            return function
    raise BadRequest(
        f"'tools' has no function '{choice.function.name}'.", param="tool_choice.function.name"
    )


def _check_names(offered: Sequence[Offered]) -> None:
    seen: set[str] = set()
    for place, function in enumerate(offered):
        if function.name in seen:
            raise BadRequest(
                f"There is another function '{function.name}'.",
                param=f"tools[{place}].function.name",
            )
        seen.add(function.name)


def _shown(function: FunctionDefinition) -> dict[str, Any]:
    given = {"description": function.description, "parameters": function.parameters}
    return {"name": function.name, **{key: value for key, value in given.items() if value}}


def _unsupported(what: str, param: str) -> UnsupportedField:
    return UnsupportedField(f"{what} is not supported by this server.", param=param)
