"""A base's chat template, rendered as transformers does it, without transformers.

Templates come with the base, never from a tenant; they run sandboxed all the same.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from service.errors import BadRequest
from service.rendering.examples import Message

# For a base without a template of its own. Written without a BOS: the renderer adds it.
INSTRUCTION_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role == "assistant" -%}
{{ "### Response:\\n" + message.content + eos_token + "\\n\\n" }}
{%- elif message.role == "user" -%}
{{ "### Instruction:\\n" + message.content + "\\n\\n" }}
{%- elif message.role == "system" -%}
{{ message.content + "\\n\\n" }}
{%- else -%}
{{ raise_exception("the base model has no chat template, so it knows no role " + message.role) }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ "### Response:\\n" }}{%- endif -%}
"""

_FUNCTION_KEYS = ("name", "description", "parameters")

# Mistral's templates refuse calls whose ids have not nine letters and digits.
_COUNTS_IDS = re.compile(r"id\s*\|\s*length\s*(?:!=|<)\s*9")
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")

# What an expression on a tenant's values can raise inside a template that did not expect them.
_FAULTS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class RenderingError(BadRequest):
    """The base's chat template cannot take these messages."""

    def __init__(self, message: str) -> None:
        super().__init__(message, param="messages")


class ChatTemplate:
    """One compiled template."""

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        self._template = _environment().from_string(source)
        self._special_tokens = special_tokens
        self._knows_developer = "developer" in source
        self._counts_ids = bool(_COUNTS_IDS.search(source))

    def render(
        self,
        messages: Sequence[Message],
        tools: list[dict[str, Any]] | None = None,
        *,
        generation_prompt: bool,
    ) -> str:
        """Render the messages; raises RenderingError when the template refuses them."""
        try:
            return self._template.render(
                messages=[self._plain(message) for message in messages],
                tools=None if tools is None else [_in_order(tool) for tool in tools],
                documents=None,
                add_generation_prompt=generation_prompt,
                **self._special_tokens,
            )
        except _FAULTS as fault:
            reason = f"the base model's chat template refuses these messages: {fault}"
            raise RenderingError(reason) from fault

    def _plain(self, message: Message) -> dict[str, Any]:
        role = message.role
        if role == "developer" and not self._knows_developer:
            role = "system"
        calls, answered = _with_objects(message.tool_calls), message.tool_call_id
        if self._counts_ids:
            calls = calls and [_with_short_id(call) for call in calls]
            answered = answered and _short(answered)
        given = {
            "role": role,
            "content": message.content,
            "name": message.name,
            "tool_calls": calls,
            "tool_call_id": answered,
        }
        # Templates ask whether a key is there; a null would be printed as "None".
        return {key: value for key, value in given.items() if value is not None}


class _Generation(Extension):
    """Lets `{% generation %}` blocks pass; they mark assistant text for other tools."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML, which no model was trained on.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _in_order(tool: dict[str, Any]) -> dict[str, Any]:
    """Put a function's members into OpenAI's order, so that a client's order changes no prompt.

    `strict` is for who checks the arguments, not for the model.
    """
    function = tool.get("function")
    if not isinstance(function, dict):
        return tool
    first = {key: function[key] for key in _FUNCTION_KEYS if key in function}
    others = {key: value for key, value in function.items() if key not in {*first, "strict"}}
    return {**tool, "function": {**first, **others}}


def _with_objects(calls: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Turn the JSON text of `arguments` into objects: OpenAI sends text, templates want objects."""
    return None if calls is None else [_with_object(call) for call in calls]


def _with_object(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": arguments}}


def _with_short_id(call: dict[str, Any]) -> dict[str, Any]:
    return {**call, "id": _short(call["id"])} if "id" in call else call


def _short(identifier: Any) -> str:
    """Make an id of nine letters and digits, always the same of the same."""
    given = str(identifier)
    if _SHORT_ID.fullmatch(given):
        return given
    return hashlib.sha256(given.encode()).hexdigest()[:9]
