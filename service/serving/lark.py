"""Grammars of answers: JSON documents, and calls of functions, in llguidance's Lark. Pure."""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import msgspec

from service.rendering.tool_format import CallTokens, ToolFormat
from service.serving.parameters import Property, properties_of

Schema = dict[str, Any]
Rules = dict[str, str]

ANY_OBJECT: Schema = {"type": "object"}
SPACING = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
"""At most one space, where `json.dumps` writes one: a model may begin to write spaces and never
end. A schema can say nothing else, nor have its own keywords passed over."""


class Function(msgspec.Struct, frozen=True):
    """What may be called, and the schema of its arguments."""

    name: str
    arguments: Schema


class Calling(msgspec.Struct, frozen=True, kw_only=True):
    """How an answer may call functions.

    Unless it is `forced` to, it may be a text instead, or a document of the schema `otherwise`.
    """

    functions: Sequence[Function]
    form: ToolFormat
    tokens: CallTokens = CallTokens()
    one: bool
    """Whether it may call at most one."""
    forced: bool
    otherwise: Schema | None = None


def document(schema: Schema) -> str:
    """Write the grammar of a JSON document."""
    return _grammar({"start": _json(schema)})


def calls(calling: Calling) -> str:
    """Write the grammar of an answer that may call functions, in its base's format."""
    match calling.form:
        case "hermes":
            rules = _marked(calling, "<tool_call>", _hermes(calling), '"\\n"')
        case "llama3_json":
            rules = _llama3(calling)
        case "mistral_json":
            rules = _marked(calling, "[TOOL_CALLS]", _mistral_json(calling))
        case "mistral_args":
            rules = _marked(calling, "[TOOL_CALLS]", _mistral_args(calling), "")
        case "qwen3_coder":
            rules = _marked(calling, "<tool_call>", _qwen3_coder(calling), '"\\n"')
    return _grammar(rules)


def _marked(calling: Calling, mark: str, rest: Rules, between: str | None = None) -> Rules:
    """Write calls that each begin with a mark: `rest` is what follows it.

    `between` stands between two of them; None where one mark is for all.
    """
    some = "call" if calling.one or between is None else f"call ({between} call)*"
    rules = {"call": f"{_mark(calling, mark)} rest", **rest}
    if calling.forced:
        return {"start": some, **rules}
    if calling.otherwise is not None:
        return {"start": f"document | {some}", "document": _json(calling.otherwise), **rules}
    start = "text | opened rest" if calling.one else "(opened rest)* text"
    return {"start": start, **rules, **_text(calling, mark)}


def _hermes(calling: Calling) -> Rules:
    rest = f'"\\n" body "\\n" {_mark(calling, "</tool_call>")}'
    return {"rest": rest, **_bodies(calling.functions, "arguments")}


def _mistral_json(calling: Calling) -> Rules:
    body = "body" if calling.one else "body (/, ?/ body)*"
    # An id is what the template writes into history, and who learns from that may write one.
    ending = r'/(, "id": "[a-zA-Z0-9]{9}")?\}/'
    return {
        "rest": rf"/ ?\[/ {body} /\]/",
        **_bodies(calling.functions, "arguments", ending),
    }


def _mistral_args(calling: Calling) -> Rules:
    rules = _alternatives(calling.functions)
    number = f"({_mark(calling, '[CALL_ID]')} /[a-zA-Z0-9]{{9}}/)?"
    for place, function in enumerate(calling.functions):
        head = f"{json.dumps(function.name)} {number} {_mark(calling, '[ARGS]')}"
        rules[f"call_{place}"] = f"{head} arguments_{place}"
        rules[f"arguments_{place}"] = _json(function.arguments)
    return {"rest": "body", **rules}


def _qwen3_coder(calling: Calling) -> Rules:
    rules = {
        "rest": f'"\\n" body "\\n" {_mark(calling, "</tool_call>")}',
        "raw[lazy]": r"/(.|\n)*<\/parameter>/",
        "any": r'/<parameter=[^<>\n]+>/ "\n" raw "\n"',
        **_alternatives(calling.functions),
    }
    for place, function in enumerate(calling.functions):
        written = []
        for number, argument in enumerate(properties_of(function.arguments)):
            rule = f"argument_{place}_{number}"
            rules |= _argument(rule, argument)
            written.append(rule if argument.required else f"{rule}?")
        if not written and function.arguments.get("additionalProperties", True):
            written = ["any*"]
        head = json.dumps(f"<function={function.name}>\n")
        rules[f"call_{place}"] = " ".join([head, *written, '"</function>"'])
    return rules


def _argument(rule: str, argument: Property) -> Rules:
    head = json.dumps(f"<parameter={argument.name}>\n")
    if argument.schema is not None:
        document = f"{rule}_json"
        return {
            rule: rf'{head} {document} "\n</parameter>\n"',
            document: _json(argument.schema),
        }
    if argument.texts is None:
        return {rule: rf'{head} raw "\n"'}
    texts = (json.dumps(f"{text}\n</parameter>\n") for text in argument.texts)
    return {rule: f"{head} ({' | '.join(texts)})"}


def _llama3(calling: Calling) -> Rules:
    rules = _bodies(calling.functions, "parameters")
    if calling.forced:
        return {"start": "body", **rules}
    # What begins like a call is one.
    return {"start": "TEXT | body", "TEXT": r"/[^{\s](.|\n)*/", **rules}


def _mark(calling: Calling, mark: str) -> str:
    """Write a mark: a token of its own must be named, as no letters are it."""
    token = calling.tokens.marks.get(mark)
    return json.dumps(mark) if token is None else f"<[{token}]>"


def _text(calling: Calling, mark: str) -> Rules:
    """Write the rules of `text` without a mark, and of one that is `opened` by it at its end."""
    words = ",".join(_ranges(calling.tokens.words))
    rules = {"said": f"(TEXT <[{words}]>)*" if words else '""', "text": "said TEXT"}
    if mark not in calling.tokens.marks:
        last = {"last[lazy]": f"TEXT {json.dumps(mark)}", "TEXT": r"/(.|\n)*/"}
        return {**rules, "opened": "said last", **last}
    # Its letters would be read as the token is.
    letters = re.escape(mark).replace("/", r"\/")
    without = rf"/(.|\n)*/ & ~/(.|\n)*{letters}(.|\n)*/"
    return {**rules, "opened": f"text {_mark(calling, mark)}", "TEXT": without}


def _ranges(tokens: Sequence[int]) -> Iterator[str]:
    """Write ascending numbers: some bases have thousands of added tokens, one after another."""
    for _, run in groupby(enumerate(tokens), lambda at: at[1] - at[0]):
        numbers = [token for _, token in run]
        yield f"{numbers[0]}-{numbers[-1]}"


def _alternatives(functions: Sequence[Function]) -> Rules:
    return {"body": " | ".join(f"call_{place}" for place in range(len(functions)))}


def _bodies(functions: Sequence[Function], key: str, ending: str = '"}"') -> Rules:
    """Write a rule for each function: its schema stands alone, as it may refer to its own root."""
    rules = _alternatives(functions)
    for place, function in enumerate(functions):
        head = f'{{"name": "{function.name}", "{key}": '
        rules[f"call_{place}"] = f"{json.dumps(head)} arguments_{place} {ending}"
        rules[f"arguments_{place}"] = _json(function.arguments)
    return rules


def _json(schema: Schema) -> str:
    return "%json " + msgspec.json.encode({**schema, "x-guidance": SPACING}).decode()


def _grammar(rules: Rules) -> str:
    return "\n".join(["%llguidance {}", *(f"{name}: {rule}" for name, rule in rules.items()), ""])
