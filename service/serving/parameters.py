"""Arguments that are written one by one, as texts: Qwen 3 Coder's way. Pure.

A string stands there as it is, and all else is JSON. So what a text is depends on the schema.
"""

import json
from collections.abc import Iterator
from typing import Any

import msgspec

Schema = dict[str, Any]

CLOSE = "</parameter>"
EVERY = frozenset({"string", "integer", "number", "boolean", "null", "object", "array"})
_SCALARS = frozenset({"string", "integer", "number", "boolean", "null"})
_NUMBERS = frozenset({"integer", "number"})
_NOTES = frozenset({"title", "description", "default", "examples", "deprecated", "$comment"})
_SHARED = frozenset({"$defs", "definitions"})
_ROOT = _NOTES | _SHARED | {"$schema", "type", "properties", "required", "additionalProperties"}
_FEW: dict[str, list[Any]] = {"null": [None], "boolean": [True, False]}
_PYTHON = {"True": "true", "False": "false", "None": "null"}
"""What Qwen 3 Coder's own template writes for these."""
_DEEPEST = 16


class Unkept(ValueError):
    """What a schema asks for that cannot be kept to."""


class Property(msgspec.Struct, frozen=True, kw_only=True):
    """One argument: a JSON document of `schema`, or one of `texts`; any text if it has neither."""

    name: str
    required: bool
    schema: Schema | None = None
    texts: list[str] | None = None


def argument(text: str, types: frozenset[str]) -> str:
    """Write as JSON what a text is that may be of these types."""
    if types != {"string"}:
        bare = _PYTHON.get(text.strip(), text.strip())
        kind = _kind_in(bare)
        if kind != "string" and types & (_NUMBERS if kind in _NUMBERS else {kind}):
            return bare
    return json.dumps(text, ensure_ascii=False)


def types_of(schema: Any, root: Schema) -> frozenset[str]:
    """Tell of which of JSON's types a value may be: of any, where the schema does not say."""
    types = (_types(leaf) for leaf in _leaves(schema, root))
    return frozenset().union(*types) or EVERY


def properties_of(schema: Schema) -> list[Property]:
    """Read how the arguments of an object's schema are written, in its order; raises Unkept."""
    if unknown := schema.keys() - _ROOT:
        raise Unkept(f"'{min(unknown)}' beside 'properties'")
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if absent := {*required} - properties.keys():
        raise Unkept(f"'{min(absent)}', which is required but none of the properties")
    if not properties and isinstance(schema.get("additionalProperties"), dict):
        raise Unkept("a schema in 'additionalProperties'")
    return [_property(name, name in required, value, schema) for name, value in properties.items()]


def _property(name: str, required: bool, value: Any, root: Schema) -> Property:
    if any(character in name for character in "<>\n") or not isinstance(value, dict):
        raise Unkept(f"the property {name!r}")
    for ref in _references(value):
        if not str(ref).startswith(tuple(f"#/{key}/" for key in _SHARED)):
            raise Unkept(f"the '$ref' {ref!r}")
    leaves = list(_leaves(value, root))
    if not any("string" in _types(leaf) for leaf in leaves):
        shared = {key: root[key] for key in _SHARED & root.keys()}
        return Property(name=name, required=required, schema={**value, **shared})
    for leaf in leaves:
        if strange := leaf.keys() - _NOTES - {"type", "enum", "const"}:
            raise Unkept(f"'{min(strange)}' of '{name}', which may be a string")
    return Property(name=name, required=required, texts=_texts(name, leaves))


def _texts(name: str, leaves: list[Schema]) -> list[str] | None:
    """Give the only texts that a value of these may be; None where any will do."""
    listed = [value for leaf in leaves for value in _values(leaf) or ()]
    plain = [leaf for leaf in leaves if _values(leaf) is None]
    types = frozenset().union(*(_types(leaf) for leaf in plain if "type" in leaf))
    anything = any("type" not in leaf for leaf in plain)
    if anything or "string" in types:
        # A text that is no string then is one of those, so nothing may bound them.
        if types <= _SCALARS and all(isinstance(value, str) for value in listed):
            return None
    elif types <= _FEW.keys():
        listed += [value for kind in sorted(types) for value in _FEW[kind]]
        texts = [value if isinstance(value, str) else json.dumps(value) for value in listed]
        if not any(CLOSE in text for text in texts):
            return texts
    raise Unkept(f"what '{name}' may be besides a string")


def _leaves(schema: Any, root: Schema, depth: int = 0) -> Iterator[Schema]:
    """Give the alternatives that a schema names, by `anyOf` and references."""
    if not isinstance(schema, dict) or depth > _DEEPEST:
        yield {}
    elif isinstance(schema.get("$ref"), str) and (found := _referred(schema["$ref"], root)):
        yield from _leaves(found, root, depth + 1)
    elif isinstance(schema.get("anyOf"), list) and not schema.keys() - _NOTES - {"anyOf"}:
        for one in schema["anyOf"]:
            yield from _leaves(one, root, depth + 1)
    else:
        yield schema


def _referred(ref: str, root: Schema) -> Any:
    found: Any = root
    for part in ref.removeprefix("#/").split("/"):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _references(schema: Any) -> Iterator[Any]:
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"]
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _values(leaf: Schema) -> list[Any] | None:
    values = [leaf["const"]] if "const" in leaf else leaf.get("enum")
    return values if isinstance(values, list) else None


def _types(leaf: Schema) -> frozenset[str]:
    values = _values(leaf)
    if values is not None:
        return frozenset(_kind_in(json.dumps(value)) for value in values)
    given = leaf.get("type", [*EVERY])
    given = given if isinstance(given, list) else [given]
    return frozenset(one for one in EVERY if one in given)


def _kind_in(text: str) -> str:
    """Tell the type of a JSON text; what is none is a string."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return "string"
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case None:
            return "null"
        case dict():
            return "object"
        case list():
            return "array"
    return "string"


def _refuse(constant: str) -> float:
    raise ValueError(constant)
