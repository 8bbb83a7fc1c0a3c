"""Calls are read from a text the same however it arrives, and nothing that is none is lost."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.rendering.tool_format import ToolFormat
from service.serving.call_events import Argued, Called, Event, Said
from service.serving.tool_calls import call_reader

FORMS: list[ToolFormat] = ["hermes", "llama3_json"]
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
        *['{"name": "get", "arguments": ', '"parameters": {', '{"name": "get"}', '{"a": [1]}'],
    ]
)
texts = st.lists(bits | st.text(max_size=4), max_size=12).map("".join)


def read(form: ToolFormat, *pieces: str) -> tuple[str, list[list[str]]]:
    """The text and the calls of an answer that comes in these pieces."""
    reader, text, made = call_reader(form), "", list[list[str]]()
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


@pytest.mark.parametrize("form", FORMS)
@given(calls, st.integers(0, 2), st.sampled_from([None, 1]))
def test_what_a_base_writes_is_read_back(
    form: ToolFormat, made: list[tuple[str, Any]], order: int, indent: int | None
) -> None:
    key = "parameters" if form == "llama3_json" else "arguments"
    objects = [{"name": name, key: given} for name, given in made]
    if order == 0:
        objects = [dict(reversed(one.items())) for one in objects]
    written = [json.dumps(one, indent=indent) for one in objects]
    if form == "hermes":
        text = "\n".join(f"<tool_call>\n{one}\n</tool_call>" for one in written)
    else:
        text = "; ".join(written)
    said, found = read(form, text)
    assert said == ""
    assert [(name, json.loads(given)) for name, given in found] == made


@given(st.text("ab{}<>/ \n", min_size=1), calls)
def test_text_before_calls_is_kept(before: str, made: list[tuple[str, Any]]) -> None:
    objects = [json.dumps({"name": name, "arguments": given}) for name, given in made]
    text = "".join(f"<tool_call>{one}</tool_call>" for one in objects)
    said, found = read("hermes", before, text)
    assert said == before.rstrip()
    assert len(found) == len(made)


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
