"""What shape an answer is asked to have, and the grammar that gives it that shape."""

from collections.abc import Iterator, Sequence

import msgspec

from service.errors import BadRequest, UnsupportedField
from service.rendering.tool_format import CallTokens, ToolFormat
from service.serving.lark import ANY_OBJECT, Calling, Function, Schema, calls, document
from service.serving.parameters import Unkept, properties_of
from service.serving.schema_bounds import MOST_CHARACTERS, beyond_bounds
from service.serving.structures import fault_of

NO_ARGUMENTS: Schema = {"type": "object", "additionalProperties": False}


class Document(msgspec.Struct, frozen=True):
    """JSON of a schema."""

    schema: Schema
    param: str


class Offered(msgspec.Struct, frozen=True):
    """A function that may be called."""

    name: str
    parameters: Schema | None
    strict: bool
    param: str


class Calls(msgspec.Struct, frozen=True, kw_only=True):
    """Calls of functions: at most one if `one`, at least one if `forced`."""

    functions: Sequence[Offered]
    one: bool
    forced: bool


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """Text, unless it says otherwise; where both may be, the answer chooses."""

    document: Document | None = None
    calls: Calls | None = None

    @property
    def param(self) -> str | None:
        """Which field asks for it; None for text."""
        return "response_format" if self.document else "tools" if self.calls else None


def structure_of(shape: Shape, form: ToolFormat | None, tokens: CallTokens) -> str | None:
    """Give the grammar of a shape on a base that calls functions in that format.

    None where any text will do. Raises BadRequest for schemas that cannot be kept to. Takes
    milliseconds, and up to a second for schemas at the bounds.
    """
    parts = dict(_parts(shape))
    for param, schema in parts.items():
        if why := beyond_bounds(schema):
            raise _refused(why, param)
    grammar = _grammar(shape, form, tokens)
    if grammar is None:
        return None
    if len(grammar) > MOST_CHARACTERS:
        raise _refused(f"together they take over {MOST_CHARACTERS} characters", min(parts))
    if not (fault := fault_of(grammar)):
        return grammar
    for param, schema in parts.items():
        if why := fault_of(document(schema)):
            raise _refused(why, param)
    raise _refused(fault, min(parts))


def _grammar(shape: Shape, form: ToolFormat | None, tokens: CallTokens) -> str | None:
    wanted, schema = shape.calls, shape.document.schema if shape.document else None
    if wanted is None:
        return None if schema is None else document(schema)
    if form is None:
        raise BadRequest(
            "The base model's chat template knows no tools, or calls them in a way that this "
            "server cannot read.",
            param="tools",
        )
    if not wanted.forced and schema is None and not (wanted.one or _any_strict(wanted)):
        return None
    if not wanted.forced and schema is not None and form == "llama3_json":
        # Both begin with a brace, and only the model would know which it meant.
        raise UnsupportedField(
            "'response_format' is not supported together with 'tools' on this base model.",
            param="response_format",
        )
    if form == "qwen3_coder":
        _check_written_one_by_one(wanted)
    functions = [Function(one.name, _arguments(one, wanted)) for one in wanted.functions]
    return calls(
        Calling(
            functions=functions,
            form=form,
            tokens=tokens,
            one=wanted.one,
            forced=wanted.forced,
            otherwise=schema,
        )
    )


def _parts(shape: Shape) -> Iterator[tuple[str, Schema]]:
    if shape.document is not None:
        yield shape.document.param, shape.document.schema
    if shape.calls is not None:
        for function in shape.calls.functions:
            yield function.param, _arguments(function, shape.calls)


def _check_written_one_by_one(wanted: Calls) -> None:
    for function in wanted.functions:
        schema = _arguments(function, wanted)
        if why := fault_of(document(schema)):
            raise _refused(why, function.param)
        try:
            properties_of(schema)
        except Unkept as fault:
            why = f"this base model's way of calling functions cannot keep to {fault}"
            raise _refused(why, function.param) from None


def _any_strict(wanted: Calls) -> bool:
    return any(function.strict for function in wanted.functions)


def _arguments(function: Offered, wanted: Calls) -> Schema:
    if function.parameters is None:
        return NO_ARGUMENTS
    return function.parameters if function.strict or wanted.forced else ANY_OBJECT


def _refused(why: str, param: str) -> BadRequest:
    return BadRequest(f"Invalid value for '{param}': {why.strip()}.", param=param)
