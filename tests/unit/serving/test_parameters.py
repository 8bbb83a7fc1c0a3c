"""How arguments are written that stand between tags."""

import json
from typing import Any

import pytest

from service.serving.parameters import Unkept, argument, properties_of, types_of

STRING, WHOLE = {"type": "string"}, {"type": "integer"}


def of(schema: Any, **root: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": schema}, **root}


@pytest.mark.parametrize(
    "schema",
    [
        STRING,
        {"type": "string", "description": "d", "title": "t"},
        {},
        {"description": "d"},
        {"anyOf": [STRING, {"type": "null"}], "default": None},
        {"type": ["string", "integer"]},
        {"anyOf": [{"enum": ["x"]}, STRING]},
    ],
)
def test_any_text_will_do(schema: Any) -> None:
    [one] = properties_of(of(schema))
    assert (one.schema, one.texts) == (None, None)


@pytest.mark.parametrize(
    ("schema", "texts"),
    [
        ({"enum": ["x", "y z"]}, ["x", "y z"]),
        ({"type": "string", "enum": ["5"]}, ["5"]),
        ({"const": "x"}, ["x"]),
        ({"enum": ["x", 1, None]}, ["x", "1", "null"]),
        ({"anyOf": [{"enum": ["x"]}, {"type": "null"}]}, ["x", "null"]),
        ({"anyOf": [{"$ref": "#/$defs/it"}, {"type": "boolean"}]}, ["x", "true", "false"]),
    ],
)
def test_some_texts_will_do(schema: Any, texts: list[str]) -> None:
    [one] = properties_of(of(schema, **{"$defs": {"it": {"enum": ["x"]}}}))
    assert (one.schema, one.texts) == (None, texts)


def test_what_is_no_string_is_json_and_takes_what_it_refers_to_along() -> None:
    defs = {"it": {"type": "object", "properties": {"b": STRING}}}
    schema = of({"type": "array", "items": {"$ref": "#/$defs/it"}}, required=["a"])
    [one] = properties_of({**schema, "$defs": defs})
    assert one.required
    assert one.schema == {**schema["properties"]["a"], "$defs": defs}
    [whole] = properties_of({**of({"$ref": "#/$defs/it"}), "$defs": defs})
    assert whole.schema is not None


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (of({"type": "string", "pattern": "x"}), "'pattern' of 'a'"),
        (of({"type": "string", "maxLength": 2}), "'maxLength' of 'a'"),
        (of({"anyOf": [STRING, {"type": "integer", "minimum": 2}]}), "'minimum' of 'a'"),
        (of({"anyOf": [STRING, {"enum": [2]}]}), "besides a string"),
        (of({"anyOf": [{"enum": ["x"]}, WHOLE]}), "besides a string"),
        (of({"anyOf": [STRING, {"type": "object"}]}), "besides a string"),
        (of({"oneOf": [STRING, WHOLE]}), "'oneOf' of 'a'"),
        (of({"enum": ["</parameter>"]}), "besides a string"),
        (of({"$ref": "#"}), "'#'"),
        (of({"$ref": "#/$defs/absent"}), "'\\$ref' of 'a'"),
        (of(STRING, anyOf=[{}]), "'anyOf' beside"),
        (of(STRING, required=["b"]), "'b'"),
        ({"type": "object", "additionalProperties": STRING}, "additionalProperties"),
        ({"type": "object", "properties": {"a>": WHOLE}}, "'a>'"),
    ],
)
def test_what_cannot_be_kept_to_is_said(schema: Any, why: str) -> None:
    with pytest.raises(Unkept, match=why):
        properties_of(schema)


@pytest.mark.parametrize(
    ("text", "types", "value"),
    [
        ("5", {"string"}, "5"),
        ("5", {"integer"}, 5),
        ("5", {"number"}, 5),
        ("5.0", {"integer"}, 5.0),
        (" 5\n", {"integer"}, 5),
        ("five", {"integer"}, "five"),
        ("None", {"string", "null"}, None),
        ("none", {"string", "null"}, "none"),
        ("True", {"boolean"}, True),
        ('"x"', {"string", "null"}, '"x"'),
        ('{"a": [1]}', {"object"}, {"a": [1]}),
        ("[1", {"array"}, "[1"),
        ("Infinity", {"number"}, "Infinity"),
        ("[" * 5000, {"array"}, "[" * 5000),
    ],
)
def test_a_text_is_read_by_its_types(text: str, types: set[str], value: Any) -> None:
    assert json.loads(argument(text, frozenset(types))) == value


@pytest.mark.parametrize("schema", [None, True, {"type": {}}, {"type": [{}]}, {"$ref": 5}, []])
def test_nonsense_may_be_anything_and_fails_nowhere(schema: Any) -> None:
    assert types_of(schema, {"$defs": []})


def test_a_reference_to_itself_ends() -> None:
    root = {"$defs": {"a": {"$ref": "#/$defs/a"}}}
    assert "string" in types_of({"$ref": "#/$defs/a"}, root)
