"""The OpenAPI document as a walk: each operation, where it names things, and a request for it."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal
from urllib.parse import quote

import msgspec

Json = dict[str, Any]
Path = tuple[str, ...]
"""Steps into a body: names of properties, ITEM for an array's item, VALUE for a mapping's value."""

ITEM, VALUE = "[]", "{}"
FORM = "multipart/form-data"
FREE = frozenset({
    "adapter_config", "adapter_model", "arguments", "calculate_output", "content", "data",
    "description", "file", "filename", "input", "md5", "metadata", "mime_type", "name", "page",
    "prompt", "prompt_cache_key", "prompt_cache_breakpoint", "purpose", "reason", "reference",
    "safety_identifier", "stop", "suffix", "target_modules", "text", "tool_call_id", "url", "user",
})  # fmt: skip
"""Texts that are the caller's own: they name nothing that is there."""
MAKES = frozenset({
    ("createTenant", "id"), ("importAdapter", "adapter"), ("importAdapter", "alias"),
    ("createFineTuningJob", "alias"), ("planFineTuningJob", "alias"),
    ("createChatCompletion", "id"), ("generate", "id"),
})  # fmt: skip
"""Names of what the operation makes; a call's `id` is of what an answer made, and is kept by the
client alone."""
NEEDED = frozenset({("generate", ("messages",))})
"""Fields that an operation cannot do without, which its schema does not tell."""
GIVEN = {"If-Match": '"2"', "messages": [{"role": "user", "content": "hi"}]}
"""Values that a schema does not tell."""


class Place(msgspec.Struct, frozen=True):
    """Where an operation takes the id of something that is there."""

    where: Literal["path", "query", "body"]
    path: Path

    @property
    def name(self) -> str:
        """What it is called there."""
        return _name(self.path)


class Operation:
    """One operation of the document."""

    def __init__(self, schemas: Json, path: str, method: str, described: Json) -> None:
        self.id: str = described["operationId"]
        self.path, self.method = path, method
        self.is_open = described.get("security") == []
        self._schemas = schemas
        self._parameters: list[Json] = described.get("parameters", [])
        content = described.get("requestBody", {}).get("content", {})
        self._media, body = next(iter(content.items()), ("", {}))
        self._body: Json = body.get("schema", {})

    @property
    def places(self) -> list[Place]:
        """Everywhere it takes a text that is not known to be free."""
        found = [
            Place(parameter["in"], (parameter["name"],))
            for parameter in self._parameters
            if parameter["in"] in ("path", "query") and _is_text(parameter["schema"])
        ]
        texts = dict.fromkeys(_texts(self._schemas, self._body))
        found += [Place("body", path) for path in texts]
        return [p for p in found if p.name not in FREE and (self.id, p.name) not in MAKES]

    def request(self, ids: Mapping[Place, str], names: Mapping[str, str]) -> Json:
        """Make the smallest request that has these ids; what else it needs is from `names`."""
        in_body = {place.path: value for place, value in ids.items() if place.where == "body"}
        example = _Example(self.id, self._schemas, in_body, names)
        url, query, headers = self.path, {}, {}
        for parameter in self._parameters:
            name = parameter["name"]
            match parameter["in"]:
                case "path":
                    value = ids.get(Place("path", (name,)), names[name])
                    url = url.replace(f"{{{name}}}", quote(value, safe=""))
                case "query" if (place := Place("query", (name,))) in ids:
                    query[name] = ids[place]
                case "query" if parameter.get("required"):
                    query[name] = example.of(parameter["schema"])
                case "header" if name in GIVEN:
                    headers[name] = GIVEN[name]
        made = {"method": self.method, "url": url, "params": query, "headers": headers}
        return made | self._content(example)

    def _content(self, example: "_Example") -> Json:
        if not self._media:
            return {}
        body = example.of(self._body)
        if self._media != FORM:
            return {"json": body}
        kinds = self._body["properties"]
        files = {k: v for k, v in body.items() if kinds[k].get("format") == "binary"}
        return {"files": files, "data": {k: v for k, v in body.items() if k not in files}}


def operations(document: Json) -> list[Operation]:
    """List all operations."""
    schemas = document["components"]["schemas"]
    return [
        Operation(schemas, path, method, described)
        for path, item in document["paths"].items()
        for method, described in item.items()
    ]


class _Example:
    """The smallest value of a schema that has these ids in it."""

    def __init__(
        self, operation: str, schemas: Json, ids: Mapping[Path, str], names: Mapping[str, str]
    ) -> None:
        self._operation, self._schemas = operation, schemas
        self._ids, self._names = ids, names

    def of(self, schema: Json, at: Path = ()) -> Any:
        schema = _resolved(self._schemas, schema)
        if at and at[-1] in GIVEN:
            return GIVEN[at[-1]]
        if variants := schema.get("anyOf") or schema.get("oneOf"):
            if schema.get("type") != "object":
                return self.of(self._towards(variants, at), at)
            more = variants[0].get("required", [])
            schema = schema | {"required": [*schema.get("required", []), *more]}
        if "const" in schema or "enum" in schema:
            return self._one_of(schema, at)
        return self._plain(schema, at)

    def _plain(self, schema: Json, at: Path) -> Any:
        match schema.get("type"):
            case "object":
                parts = schema.get("properties", {}).items()
                kept = [(n, p) for n, p in parts if self._needs(schema, (*at, n))]
                return {name: self.of(part, (*at, name)) for name, part in kept}
            case "array" if schema.get("minItems") or self._leads(at):
                return [self.of(schema["items"], (*at, ITEM))]
            case "array":
                return []
            case "string":
                return self._ids.get(at) or self._names.get(_name(at) if at else "", "text")
            case "boolean":
                return False
        return schema.get("minimum", 1)

    def _needs(self, schema: Json, at: Path) -> bool:
        required = at[-1] in schema.get("required", ()) or (self._operation, at) in NEEDED
        return required or self._leads(at)

    def _leads(self, at: Path) -> bool:
        return any(path[: len(at)] == at for path in self._ids)

    def _towards(self, variants: list[Json], at: Path) -> Json:
        """Pick the variant that the ids are in, else the first."""
        leading = [v for v in variants if set(self._ids) & set(_texts(self._schemas, v, at))]
        return (leading or variants)[0]

    def _one_of(self, schema: Json, at: Path) -> Any:
        """Pick what names the field beside it that leads to the ids, else the first."""
        values = [schema["const"]] if "const" in schema else schema["enum"]
        return next((v for v in values if self._leads((*at[:-1], v))), values[0])


def _texts(schemas: Json, schema: Json, at: Path = (), seen: Path = ()) -> Iterator[Path]:
    """Find every text in a schema that is not one of a few."""
    if name := schema.get("$ref"):
        if name not in seen:
            yield from _texts(schemas, _resolved(schemas, schema), at, (*seen, name))
        return
    if _is_text(schema):
        yield at
    for variant in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from _texts(schemas, variant, at, seen)
    for name, part in schema.get("properties", {}).items():
        yield from _texts(schemas, part, (*at, name), seen)
    for step, key in ((ITEM, "items"), (VALUE, "additionalProperties")):
        if isinstance(schema.get(key), dict):
            yield from _texts(schemas, schema[key], (*at, step), seen)


def _is_text(schema: Json) -> bool:
    kinds = [schema, *schema.get("anyOf", ()), *schema.get("oneOf", ())]
    return any(k.get("type") == "string" and not {"enum", "const"} & k.keys() for k in kinds)


def _resolved(schemas: Json, schema: Json) -> Json:
    while "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    return schema


def _name(path: Path) -> str:
    return next(step for step in reversed(path) if step not in (ITEM, VALUE))
