"""What `response_format` and `tools` ask for, and the grammar that comes of it."""

from typing import Any

import msgspec
import pytest

from service.errors import BadRequest, UnsupportedField
from service.rendering.tool_format import CallTokens, ToolFormat
from service.serving.chat_schemas import ChatRequest
from service.serving.shapes import Shape, structure_of
from service.serving.translate import chat_order
from service.serving.wishes import tools_of

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}
BAD = {"type": "object", "properties": {"n": {"type": "integer", "not": {"const": 1}}}}


def request(**fields: Any) -> ChatRequest:
    user = {"role": "user", "content": "hello"}
    return msgspec.convert({"model": "m", "messages": [user], **fields}, ChatRequest)


def shape(**fields: Any) -> Shape:
    return chat_order(request(**fields), 100).shape


def grammar(form: ToolFormat | None = "hermes", **fields: Any) -> str | None:
    return structure_of(shape(**fields), form, CallTokens())


def json_of(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, **more}}


def tool(name: str = "find", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


def choice(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"response_format": {"type": "text"}},
        {"tools": []},
        {"tool_choice": "auto"},
        {"tools": [tool(parameters=BAD)]},
        {"tools": [tool()], "tool_choice": "none"},
    ],
)
def test_any_text_will_do(fields: dict[str, Any]) -> None:
    assert grammar(**fields) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": json_of(SCHEMA, strict=False, description="d")},
        {"tools": [tool(parameters=SCHEMA, strict=True)]},
        {"tools": [tool()], "parallel_tool_calls": False},
        {"tools": [tool()], "tool_choice": "required"},
        {"tools": [tool("a"), tool("b")], "tool_choice": choice("b")},
        {"tools": [tool()], "response_format": json_of(SCHEMA)},
    ],
)
def test_an_answer_keeps_to_what_is_asked(fields: dict[str, Any]) -> None:
    assert grammar(**fields)


def test_a_named_function_is_the_only_one_and_is_called_once() -> None:
    tools = [tool("first"), tool("second")]
    named = grammar(tools=tools, tool_choice=choice("second"))
    assert named is not None
    assert "second" in named
    assert "first" not in named
    one = grammar(tools=tools[1:], tool_choice="required", parallel_tool_calls=False)
    assert named == one != grammar(tools=tools[1:], tool_choice="required")


@pytest.mark.parametrize(
    ("fields", "param", "why"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "Missing"),
        ({"response_format": json_of(None)}, "response_format.json_schema.schema", "Missing"),
        ({"response_format": json_of(BAD)}, "response_format.json_schema.schema", "not"),
        (
            {"response_format": {**json_of(SCHEMA), "type": "text"}},
            "response_format.json_schema",
            "json_schema",
        ),
        (
            {"response_format": json_of({"type": "strin"})},
            "response_format.json_schema.schema",
            "strin",
        ),
        (
            {"response_format": json_of({"$ref": "https://example.com/a.json"})},
            "response_format.json_schema.schema",
            "example.com",
        ),
        (
            {"response_format": json_of({"type": "integer", "multipleOf": 99991})},
            "response_format.json_schema.schema",
            "multipleOf",
        ),
        (
            {"response_format": json_of({"enum": ["x" * 70_000]})},
            "response_format.json_schema.schema",
            "characters",
        ),
        ({"tool_choice": "required"}, "tool_choice", "needs 'tools'"),
        ({"tools": [tool("a"), tool("a")]}, "tools[1].function.name", "another"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "Missing"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type", "custom"),
        (
            {"tools": [tool(parameters={"type": "string"})]},
            "tools[0].function.parameters",
            "object",
        ),
        (
            {"tools": [tool("a"), tool("b", parameters=BAD, strict=True)]},
            "tools[1].function.parameters",
            "not",
        ),
        (
            {"tools": [tool(parameters=BAD)], "tool_choice": "required"},
            "tools[0].function.parameters",
            "not",
        ),
        ({"tools": [tool()], "tool_choice": choice("b")}, "tool_choice.function.name", "'b'"),
        (
            {"tools": [tool()], "tool_choice": {"type": "function"}},
            "tool_choice.function",
            "Missing",
        ),
        (
            {"tools": [tool()], "tool_choice": {"type": "allowed_tools", "allowed_tools": {}}},
            "tool_choice.type",
            "allowed_tools",
        ),
    ],
)
def test_what_cannot_be_kept_to_is_refused_by_name_and_reason(
    fields: dict[str, Any], param: str, why: str
) -> None:
    with pytest.raises(BadRequest, match=why) as raised:
        grammar(**fields)
    assert raised.value.param == param


def test_a_base_that_knows_no_tools_says_so() -> None:
    with pytest.raises(BadRequest, match="knows no tools") as raised:
        grammar(None, tools=[tool()])
    assert raised.value.param == "tools"
    assert grammar(None, response_format={"type": "json_object"})


def test_a_call_that_could_be_a_document_is_refused() -> None:
    fields = {"tools": [tool()], "response_format": json_of(SCHEMA)}
    with pytest.raises(UnsupportedField) as raised:
        grammar("llama3_json", **fields)
    assert raised.value.param == "response_format"
    assert grammar("llama3_json", **fields, tool_choice="required")


def test_arguments_in_tags_keep_to_a_schema_that_can_be_written_so() -> None:
    bound = {"type": "object", "properties": {"s": {"type": "string", "pattern": "a"}}}
    tools = [tool("a", parameters=SCHEMA), tool("b", parameters=bound)]
    with pytest.raises(BadRequest, match="'pattern' of 's'") as raised:
        grammar("qwen3_coder", tools=tools, tool_choice="required")
    assert raised.value.param == "tools[1].function.parameters"
    assert grammar("qwen3_coder", tools=tools, parallel_tool_calls=False)
    assert grammar("qwen3_coder", tools=tools[:1], tool_choice="required")
    nonsense = [tool(parameters={"type": "object", "required": 5})]
    with pytest.raises(BadRequest, match="required"):
        grammar("qwen3_coder", tools=nonsense, tool_choice="required")


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, 'f"'])
def test_names_are_openais(name: str) -> None:
    for fields in ({"tools": [tool(name)]}, {"response_format": json_of(SCHEMA, name=name)}):
        with pytest.raises(msgspec.ValidationError, match="name"):
            request(**fields)


def test_the_template_is_shown_functions_and_nothing_for_us() -> None:
    shown = tools_of(request(tools=[tool(strict=True, parameters=SCHEMA, description="d")]))
    assert shown == [tool(description="d", parameters=SCHEMA)]
    assert tools_of(request(tools=[tool()])) == [tool()]
    assert tools_of(request()) is None
