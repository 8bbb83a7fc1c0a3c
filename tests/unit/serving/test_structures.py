"""Grammars at work on the bundled base's vocabulary, with a model that takes whatever it may."""

import json
import random
from collections.abc import Sequence
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from service.errors import BadRequest
from service.rendering.detokenizer import Detokenizer
from service.rendering.tool_format import MARKS, CallTokens, ToolFormat
from service.serving import structures
from service.serving.engine import Sampling
from service.serving.lark import Calling, Function, Schema, calls, document
from service.serving.parameters import Unkept, properties_of
from service.serving.structures import Structure, Structures
from service.settings import BUNDLED_BASE
from tests.properties.test_tool_calls import read
from tests.strategies import schemas

VOCABULARY, END = 4096, 3
MOST = 400
"""Tokens, within which any of the schemas here ends."""


class Base(msgspec.Struct, frozen=True):
    """A vocabulary, and what of it stands around calls, and in texts."""

    tokenizer: Tokenizer
    tokens: CallTokens
    structures: Structures

    def text(self, tokens: list[int]) -> str:
        detokenizer = Detokenizer(self.tokenizer, tuple(self.tokens.marks.values()))
        return "".join(map(detokenizer.add, tokens)) + detokenizer.flush()


THOUGHTS = [AddedToken(one, special=False, normalized=False) for one in ("<think>", "</think>")]


def base(marks: Sequence[AddedToken] = ()) -> Base:
    """The bundled one, with these as tokens."""
    tokenizer = Tokenizer.from_file(str(BUNDLED_BASE / "tokenizer.json"))
    tokenizer.add_tokens([*marks])
    ids = {mark.content: tokenizer.token_to_id(mark.content) for mark in marks}
    tokenizer.add_tokens(THOUGHTS)
    tokens = CallTokens(ids, [tokenizer.token_to_id(one.content) for one in THOUGHTS])
    size = tokenizer.get_vocab_size()
    return Base(tokenizer, tokens, Structures(tokenizer, size, [END]))


def every_mark(*, special: bool) -> list[AddedToken]:
    marks = dict.fromkeys(mark for marks in MARKS.values() for mark in marks)
    return [AddedToken(mark, special=special, normalized=False) for mark in marks]


PLAIN = base()
BASES = [PLAIN, base(every_mark(special=True)), base(every_mark(special=False))]
CLOSING, PATIENCE = [PLAIN.tokenizer.token_to_id(one) for one in "]>"], 150
TAG = PLAIN.tokenizer.encode("\n</parameter>\n").ids
TOKENIZER, STRUCTURES = PLAIN.tokenizer, PLAIN.structures
bases = pytest.mark.parametrize("base", BASES, ids=["letters", "special", "added"])


async def structure(grammar: str, base: Base = PLAIN) -> Structure:
    [made] = await base.structures.of(Sampling(max_tokens=MOST, structure=grammar))
    return made


def left(one: Structure) -> list[int]:
    bits = f"{int.from_bytes(one.mask(), 'little'):b}"
    return [token for token, bit in enumerate(reversed(bits)) if bit == "1"]


async def babble(grammar: str, chance: random.Random, base: Base = PLAIN) -> str:
    """What somebody says who takes any token that may be, and ends when that may be.

    After a while they close what they can, as an array of calls has no other end; nor has a text.
    """
    one, said, tag = await structure(grammar, base), list[int](), list[int]()
    while not one.over and len(said) < MOST:
        tokens = left(one)
        if not tag and len(tokens) > VOCABULARY // 2 and chance.random() < 0.2:
            tag = [*TAG]
        wanted = [END, *tag[:1], *(CLOSING if len(said) > PATIENCE else [])]
        token = next((one for one in wanted if one in tokens), None) or chance.choice(tokens)
        tag = tag[1:] if [token] == tag[:1] else []
        one.take(token)
        if token == END:
            break
        said.append(token)
    assert len(said) < MOST, base.text(said)
    return base.text(said)


@settings(max_examples=40, deadline=None)
@given(schemas(), st.randoms())
async def test_whatever_is_said_is_of_the_schema(schema: Schema, chance: random.Random) -> None:
    said = await babble(document(schema), chance)
    jsonschema.validate(json.loads(said), schema)


@bases
@pytest.mark.parametrize("form", MARKS)
@given(st.lists(schemas(of_objects=True), min_size=1, max_size=3), st.booleans(), st.randoms())
@settings(max_examples=15, deadline=None)
async def test_a_forced_call_is_read_as_one_of_the_functions_with_arguments_of_its_schema(
    base: Base, form: ToolFormat, given: list[Schema], one: bool, chance: random.Random
) -> None:
    if form == "qwen3_coder":
        given = [kept for one in given if (kept := with_free_strings(one))]
        assume(given)
    functions = [Function(f"call-{place}", schema) for place, schema in enumerate(given)]
    schemas_of = {function.name: function.arguments for function in functions}
    grammar = calls(
        Calling(functions=functions, form=form, tokens=base.tokens, one=one, forced=True)
    )
    said, made = read(form, await babble(grammar, chance, base), functions=schemas_of)
    assert said == ""
    assert made
    assert len(made) == 1 or not one
    for name, arguments in made:
        jsonschema.validate(json.loads(arguments), given[int(name.removeprefix("call-"))])


def with_free_strings(schema: Schema) -> Schema | None:
    """Let strings that are arguments have no bounds; None where something else cannot be kept."""
    loose = {"type": "string"}
    properties = {
        name: loose if value.get("type") == "string" else value
        for name, value in schema["properties"].items()
    }
    try:
        properties_of({**schema, "properties": properties})
    except Unkept:
        return None
    return {**schema, "properties": properties}


FUNCTIONS = [Function("find", {"type": "object", "properties": {"n": {"type": "integer"}}})]
CALL = '<tool_call>\n{"name": "find", "arguments": {"n": 1}}\n</tool_call>'
MISTRAL = '[TOOL_CALLS] [{"name": "find", "arguments": {"n": 1}}]'
TWO_OF_MISTRAL = (
    '[TOOL_CALLS][{"name": "find", "arguments": {"n": 1}, "id": "abc123XYZ"}, '
    '{"name": "find", "arguments": {}}]'
)
ARGS = '[TOOL_CALLS]find[ARGS]{"n": 1}'
WITH_ID = '[TOOL_CALLS]find[CALL_ID]abc123XYZ[ARGS]{"n": 1}'
CODER = "<tool_call>\n<function=find>\n<parameter=n>\n1\n</parameter>\n</function>\n</tool_call>"
LLAMA = '{"name": "find", "parameters": {"n": 1}}'


def of_a_family(form: str, call: str, two: str) -> list[tuple[str, dict[str, Any], bool]]:
    """What holds of any format that can say something besides calls."""
    return [
        ("hello", {"form": form}, True),
        (call, {"form": form}, True),
        (f"Let me see. {call}", {"form": form}, True),
        (f"<think>Hm.</think>{call}", {"form": form}, True),
        (f"<think>Hm.</think>{call}", {"form": form, "one": True}, True),
        ("Hm.</think>Hello.", {"form": form, "one": True}, True),
        (f"Let me see. {two}", {"form": form}, True),
        (call, {"form": form, "one": True}, True),
        (two, {"form": form, "one": True}, False),
        ("hello", {"form": form, "forced": True}, False),
        (call, {"form": form, "forced": True}, True),
        (f"Let me see. {call}", {"form": form, "forced": True}, False),
        (two, {"form": form, "forced": True}, True),
        (two, {"form": form, "forced": True, "one": True}, False),
        ("[1, 2]", {"form": form, "otherwise": {"type": "array"}}, True),
        (call, {"form": form, "otherwise": {"type": "array"}}, True),
        ("hello", {"form": form, "otherwise": {"type": "array"}}, False),
    ]


@bases
@pytest.mark.parametrize(
    ("text", "wishes", "fine"),
    [
        ("hello", {}, True),
        *of_a_family("hermes", CALL, f"{CALL}\n{CALL}"),
        (f"Let me see. {CALL}", {}, True),
        (f"{CALL}\n{CALL} Well.", {}, True),
        (f"{CALL}\n{CALL}", {"one": True}, False),
        ('<tool_call>\n{"name": "find", "arguments": {"n": "x"}}\n</tool_call>', {}, False),
        ('<tool_call>\n{"name": "other", "arguments": {}}\n</tool_call>', {}, False),
        ("hello", {"forced": True}, False),
        (CALL, {"forced": True}, True),
        (f"{CALL}\n{CALL}", {"forced": True}, True),
        (f"{CALL}\n{CALL}", {"forced": True, "one": True}, False),
        ("[1, 2]", {"otherwise": {"type": "array"}}, True),
        (CALL, {"otherwise": {"type": "array"}}, True),
        ("hello", {"otherwise": {"type": "array"}}, False),
        ("hello {", {"form": "llama3_json"}, True),
        (LLAMA, {"form": "llama3_json"}, True),
        ('{"answer": 1}', {"form": "llama3_json"}, False),
        (LLAMA, {"form": "llama3_json", "forced": True}, True),
        ("hello", {"form": "llama3_json", "forced": True}, False),
        *of_a_family("mistral_json", MISTRAL, TWO_OF_MISTRAL),
        (f"{MISTRAL}, ", {"form": "mistral_json", "forced": True}, False),
        ('[TOOL_CALLS][{"name": "other", "arguments": {}}]', {"form": "mistral_json"}, False),
        ("[TOOL_CALLS][]", {"form": "mistral_json"}, False),
        *of_a_family("qwen3_coder", CODER, f"{CODER}\n{CODER}"),
        (CODER.replace("1", "x"), {"form": "qwen3_coder"}, False),
        (CODER.replace("=n", "=m"), {"form": "qwen3_coder"}, False),
        (CODER.replace("find", "other"), {"form": "qwen3_coder"}, False),
        *of_a_family("mistral_args", ARGS, WITH_ID + ARGS),
        (WITH_ID, {"form": "mistral_args", "forced": True, "one": True}, True),
        ("[TOOL_CALLS]other[ARGS]{}", {"form": "mistral_args"}, False),
        ('[TOOL_CALLS]find[ARGS]{"n": "x"}', {"form": "mistral_args"}, False),
    ],
)
async def test_what_an_answer_with_functions_may_be(
    base: Base, text: str, wishes: dict[str, Any], fine: bool
) -> None:
    asked = {"form": "hermes", "tokens": base.tokens, "one": False, "forced": False, **wishes}
    one = await structure(calls(Calling(functions=FUNCTIONS, **asked)), base)
    assert follows(one, text, base) == fine


async def test_letters_are_not_the_token_that_they_spell() -> None:
    """Else they would be read as a call that no schema bound."""
    asked = Calling(
        functions=FUNCTIONS, form="hermes", tokens=BASES[1].tokens, one=True, forced=False
    )
    one = await structure(calls(asked), BASES[1])
    assert not follows(one, CALL, PLAIN)


def follows(one: Structure, text: str, base: Base = PLAIN) -> bool:
    for token in [*base.tokenizer.encode(text, add_special_tokens=False).ids, END]:
        if token not in left(one):
            return False
        one.take(token)
    return True


@pytest.mark.parametrize("space", [" ", "\n", "\t"])
async def test_no_model_can_say_spaces_for_ever(space: str) -> None:
    for text in ('{"a": 1, "b": [2, 3]}', '{"a":1,"b":[2,3]}'):
        assert follows(await structure(document({"type": "object"})), text)
    one = await structure(document({"type": "object"}))
    assert not follows(one, '{"a": ' + space)


async def test_a_schema_cannot_have_itself_passed_over() -> None:
    lenient = {"type": "string", "format": "unheard-of", "x-guidance": {"lenient": True}}
    with pytest.raises(BadRequest, match="unheard-of"):
        await structure(document(lenient))


async def test_each_choice_has_a_structure_of_its_own() -> None:
    sampling = Sampling(max_tokens=9, n=2, structure=document({"type": "boolean"}))
    first, second = await STRUCTURES.of(sampling)
    before = left(second)
    first.take(before[0])
    assert left(second) == before != left(first)
    assert await STRUCTURES.of(Sampling(max_tokens=9)) == []


async def test_a_grammar_that_takes_too_long_fails_and_is_not_followed_wrongly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(structures, "AT_ONCE", -1.0)
    one = await structure(document({"type": "object"}))
    with pytest.raises(BadRequest, match="too complex") as raised:
        one.take(left(one)[0])
    assert raised.value.param == "structure"


async def test_a_grammar_with_more_in_it_than_can_be_followed_is_refused_at_once() -> None:
    properties = {f"p{number}": {"type": "integer"} for number in range(600)}
    with pytest.raises(BadRequest, match="max is 2000"):
        await structure(document({"type": "object", "properties": properties}))
