"""Calls are read from a text the same however it arrives, and nothing that is none is lost."""

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.rendering.tool_format import MARKS, ToolFormat
from service.serving.call_events import Argued, Called, Event, Said
from service.serving.tool_calls import call_reader

FORMS = list(MARKS)
SCHEMAS = {"get": {"properties": {"s": {"type": "string"}, "n": {"type": "integer"}}}}
KINDS = {
    str: "string", int: "integer", bool: "boolean", type(None): "null", list: "array",
    dict: "object",
}  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('ab<>{}[]"\\é;, \n', max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
arguments = st.dictionaries(st.text(max_size=3), values, max_size=3)
calls = st.lists(st.tuples(st.sampled_from(["get", "a-b_c"]), arguments), min_size=1, max_size=3)
bits = st.sampled_from(
    [
        *["<tool_call>", "</tool_call>", "<", "</tool", "}", "{", "\n", "; ", '"', "\\", " word"],
        *["<function=get>", "<parameter=s>", "<parameter=n>", "</parameter>", "</function>"],
        *["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]ab1", "get", "[", "]", ", "],
        *['{"name": "get", "arguments": ', '"parameters": {', '{"name": "get"}', '{"a": [1]}'],
    ]
)
texts = st.lists(bits | st.text(max_size=4), max_size=12).map("".join)


def read(
    form: ToolFormat, *pieces: str, functions: Mapping[str, Any] = SCHEMAS
) -> tuple[str, list[list[str]]]:
    """The text and the calls of an answer that comes in these pieces."""
    reader, text, made = call_reader(form, functions), "", list[list[str]]()
    events: list[Event] = [event for piece in pieces for event in reader.add(piece)]
    for event in [*events, *reader.end()]:
        match event:
            case Said(said):
                text += said
            case Called(index, name):
                assert index == len(made)
                made.append([name, ""])
            case Argued(index, more):
                assert index == len(made) - 1
                made[index][1] += more
    return text, made


def cut(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    return [text[begin:end] for begin, end in pairwise(edges)]


@pytest.mark.parametrize("form", FORMS)
@given(texts, st.lists(st.integers(0, 80), max_size=5))
def test_how_it_is_cut_changes_nothing(form: ToolFormat, text: str, places: list[int]) -> None:
    assert read(form, *cut(text, places)) == read(form, text) == read(form, *text)


def written(
    form: ToolFormat, made: list[tuple[str, Any]], order: int = 1, indent: int | None = None
) -> str:
    """Write calls as a base does; at 0 the order of an object's members is the other one."""
    if form == "mistral_args":
        number = "[CALL_ID]abc123XYZ" if order == 0 else ""
        heads = [f"[TOOL_CALLS]{name}{number}[ARGS]" for name, _ in made]
        bodies = [json.dumps(given, indent=indent) for _, given in made]
        return "".join(head + body for head, body in zip(heads, bodies, strict=True))
    key = "parameters" if form == "llama3_json" else "arguments"
    objects = [{"name": name, key: given} for name, given in made]
    if order == 0:
        objects = [{"id": "abc123XYZ", **dict(reversed(one.items()))} for one in objects]
    texts = [json.dumps(one, indent=indent) for one in objects]
    match form:
        case "qwen3_coder":
            return "\n".join(in_tags(name, given) for name, given in made)
        case "hermes":
            return "\n".join(f"<tool_call>\n{one}\n</tool_call>" for one in texts)
        case "mistral_json":
            return f"[TOOL_CALLS] [{', '.join(texts)}]"
        case "llama3_json":
            return "; ".join(texts)


def in_tags(name: str, given: dict[str, Any]) -> str:
    """Write a call as Qwen 3.5's template does."""
    texts = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in given.items()
    }
    inner = "".join(f"<parameter={key}>\n{text}\n</parameter>\n" for key, text in texts.items())
    return f"<tool_call>\n<function={name}>\n{inner}</function>\n</tool_call>"


keys = st.text("abé_- ", min_size=1, max_size=4)


@given(st.lists(st.dictionaries(keys, values, max_size=3), min_size=1, max_size=3), st.data())
def test_texts_are_what_the_schemas_say(given: list[dict[str, Any]], data: st.DataObject) -> None:
    made = [(f"f{place}", one) for place, one in enumerate(given)]
    functions = {
        name: {"properties": {key: {"type": KINDS[type(value)]} for key, value in one.items()}}
        for name, one in made
    }
    text = written("qwen3_coder", made)
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=5))
    said, found = read("qwen3_coder", *cut(text, places), functions=functions)
    assert said == ""
    assert [(name, json.loads(arguments)) for name, arguments in found] == made


@pytest.mark.parametrize("form", [form for form in FORMS if form != "qwen3_coder"])
@given(calls, st.integers(0, 2), st.sampled_from([None, 1]))
def test_what_a_base_writes_is_read_back(
    form: ToolFormat, made: list[tuple[str, Any]], order: int, indent: int | None
) -> None:
    said, found = read(form, written(form, made, order, indent))
    assert said == ""
    assert [(name, json.loads(given)) for name, given in found] == made


@pytest.mark.parametrize("form", ["hermes", "mistral_json", "mistral_args"])
@given(st.text("ab{}<>[]/ \n", min_size=1), calls)
def test_text_before_calls_is_kept(
    form: ToolFormat, before: str, made: list[tuple[str, Any]]
) -> None:
    said, found = read(form, before, written(form, made))
    assert said == before.rstrip()
    assert [(name, json.loads(given)) for name, given in found] == made


@pytest.mark.parametrize("form", FORMS)
@given(st.text('ab{}[]<>/:, \n"'))
def test_text_without_names_calls_nothing_and_is_kept(form: ToolFormat, text: str) -> None:
    assert read(form, text) == (text, [])


@pytest.mark.parametrize(
    ("text", "said", "found"),
    [
        ('<tool_call>{"name": "f"}</tool_call>', "", [["f", "{}"]]),
        ('<tool_call>{"name": "f", "arguments": {"a": 1', "", [["f", '{"a": 1']]),
        ('<tool_call>{"name": "f", "arguments": {"a": 1</tool_call>.', ".", [["f", '{"a": 1']]),
        ('<tool_call>{"name": "f", "arguments": {}}<tool_call>', "<tool_call>", [["f", "{}"]]),
        ('<tool_call>{"name": "f", "argu', '<tool_call>{"name": "f", "argu', []),
        ("<tool_call>[1]</tool_call>", "<tool_call>[1]</tool_call>", []),
        (
            '<tool_call>{"name": "f", "arguments": "x"}</tool_call>',
            '<tool_call>{"name": "f", "arguments": "x"}</tool_call>',
            [],
        ),
        ('<tool_call>{"name": "\\ud800"}</tool_call>',) * 2 + ([],),
    ],
)
def test_what_is_cut_or_badly_written(text: str, said: str, found: list[list[str]]) -> None:
    assert read("hermes", text) == (said, found)


@pytest.mark.parametrize("text", ['{"answer": 1}', 'It is {"name": "f", "parameters": {}}', '{"a'])
def test_json_of_llama_that_is_no_call_is_text(text: str) -> None:
    assert read("llama3_json", text) == (text, [])


@pytest.mark.parametrize(
    ("text", "said", "found"),
    [
        ('[TOOL_CALLS]{"name": "f", "arguments": {}}', "", [["f", "{}"]]),
        ('[TOOL_CALLS][{"name": "f", "arguments": {}}', "", [["f", "{}"]]),
        ('[TOOL_CALLS][{"name": "f", "arguments": {"a": 1', "", [["f", '{"a": 1']]),
        ('[TOOL_CALLS][{"name": "f", "arguments": {}}, x', ", x", [["f", "{}"]]),
        ('[TOOL_CALLS][{"name": "f", "arguments": {}}, {"a": 1}]', ', {"a": 1}]', [["f", "{}"]]),
        ('[TOOL_CALLS] [{"answer": 1}]', '[TOOL_CALLS] [{"answer": 1}]', []),
        ("[TOOL_CALLS][]", "[TOOL_CALLS][]", []),
        ("[TOOL_CALLS] of mine, {", "[TOOL_CALLS] of mine, {", []),
        ("[TOOL_CALLS][TOOL_CALLS]f[ARGS]{}", "[TOOL_CALLS]", [["f", "{}"]]),
        ('[TOOL_CALLS]f{"a": 1}[TOOL_CALLS]g [ARGS] {}', "", [["f", '{"a": 1}'], ["g", "{}"]]),
        ('[TOOL_CALLS]f[ARGS]{"a": "[TOOL_CALLS]', "", [["f", '{"a": "[TOOL_CALLS]']]),
        ("[TOOL_CALLS]f[ARGS][1]", "[TOOL_CALLS]f[ARGS][1]", []),
        ("[TOOL_CALLS]f[ARGS]", "[TOOL_CALLS]f[ARGS]", []),
    ],
)
@pytest.mark.parametrize("form", ["mistral_json", "mistral_args"])
def test_either_way_of_mistrals_is_read(
    form: ToolFormat, text: str, said: str, found: list[list[str]]
) -> None:
    assert read(form, text) == read(form, *text) == (said, found)


HEAD = "<tool_call>\n<function=get>\n"


@pytest.mark.parametrize(
    ("text", "said", "found"),
    [
        (f"Well.\n{HEAD}</function>\n</tool_call>", "Well.", [["get", "{}"]]),
        (f"{HEAD}<parameter=s>\n5", "", [["get", '{"s": "5']]),
        (f"{HEAD}<parameter=n>\n5", "", [["get", '{"n": ']]),
        (f"{HEAD}<parameter=s>\na\n</param\n</parameter>", "", [["get", '{"s": "a\\n</param"']]),
        (f"{HEAD}<parameter=s>a</parameter></function>", "", [["get", '{"s": "a"}']]),
        (
            f"{HEAD}<parameter=s>\n\n a\n\n</parameter></function>",
            "",
            [["get", '{"s": "\\n a\\n"}']],
        ),
        (f"{HEAD}<parameter=n>five</parameter></function>", "", [["get", '{"n": "five"}']]),
        (f"{HEAD}<parameter=x>5</parameter></function>", "", [["get", '{"x": 5}']]),
        (f"{HEAD}<parameter=x>True</parameter></function>", "", [["get", '{"x": true}']]),
        (f"{HEAD}<parameter=x>NaN</parameter></function>", "", [["get", '{"x": "NaN"}']]),
        (f"{HEAD}</function>{HEAD}</function>", "", [["get", "{}"]] * 2),
        (f"{HEAD}oh{HEAD}</function>", "oh", [["get", "{}"]] * 2),
        ("<tool_call>\n<function=a b>", "<tool_call>\n<function=a b>", []),
        ("<tool_call> it", "<tool_call> it", []),
        ("<tool_call><tool_call><function=get></function>", "<tool_call>", [["get", "{}"]]),
    ],
)
def test_what_is_badly_written_in_tags(text: str, said: str, found: list[list[str]]) -> None:
    assert read("qwen3_coder", text) == read("qwen3_coder", *text) == (said, found)
