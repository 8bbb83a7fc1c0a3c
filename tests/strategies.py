"""Every Hypothesis strategy that more than one test needs."""

from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import strategies as st

from service.adapters.names import PATTERN
from service.base.memory_plan import Demand
from service.base.model_shape import ModelShape
from service.base.segmented.layout import Part
from service.rendering.examples import (
    ChatExample,
    CompletionExample,
    Example,
    Message,
    TextExample,
)
from service.tenants.usage_buckets import Used
from service.tenants.usage_counters import Amount
from service.tenants.usage_schemas import GroupBy

names = st.from_regex(PATTERN, fullmatch=True)
"""Names of bases, tenants, adapters and aliases."""

revs = st.text("0123456789abcdef", min_size=8, max_size=64)
"""A revision's short or whole digest."""


def digests() -> st.SearchStrategy[str]:
    """Whole digests that often begin alike."""
    begin = st.text("01", min_size=12, max_size=12)
    return st.builds(
        lambda text, fill: text + fill * 52, begin, st.sampled_from("0123456789abcdef")
    )


plain_text = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs"]) | st.sampled_from(" \n\t"),
    max_size=40,
)
"""Any text that JSON can carry, with much white space."""

filled_text = plain_text.filter(lambda text: bool(text.strip()))


def conversations(
    contents: st.SearchStrategy[str] = filled_text,
) -> st.SearchStrategy[list[Message]]:
    """Alternating turns that end with an answer, some of them without weight."""
    user = st.builds(Message, st.just("user"), contents)
    weight = st.sampled_from([None, 0, 1])
    answer = st.builds(Message, st.just("assistant"), contents, weight=weight)
    last = st.builds(Message, st.just("assistant"), contents, weight=st.sampled_from([None, 1]))
    turns = st.lists(st.tuples(user, answer), max_size=2).map(
        lambda pairs: [message for pair in pairs for message in pair]
    )
    return st.builds(lambda before, ask, end: [*before, ask, end], turns, user, last)


chat_examples = st.builds(ChatExample, conversations())
completion_examples = st.builds(CompletionExample, plain_text, filled_text)
text_examples = st.builds(TextExample, filled_text)
examples: st.SearchStrategy[Example] = chat_examples | completion_examples | text_examples

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)

_row_keys = st.sampled_from(
    [
        "messages",
        "prompt",
        "completion",
        "instruction",
        "input",
        "output",
        "text",
        "tools",
        "chosen",
        "rejected",
        "preferred_output",
        "non_preferred_output",
    ]
)
_messages = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "system", "tool", "king"]) | json_values,
        "content": json_values,
        "weight": json_values,
        "tool_calls": json_values,
        "name": json_values,
    },
)
almost_rows = st.dictionaries(
    _row_keys, json_values | st.lists(_messages, max_size=3) | st.text(), max_size=4
)
"""Objects that look like rows, and seldom are."""

file_lines = st.lists(
    st.binary(max_size=40)
    | almost_rows.map(msgspec.json.encode)
    | examples.map(msgspec.json.encode)
    | st.sampled_from([b"", b"  ", b"\xef\xbb\xbf{}", b'{"text": "\\ud800"}', b"[" * 20000]),
    max_size=12,
)
"""Lines of a file that somebody uploads."""


@st.composite
def segment_parts(draw: st.DrawFn) -> list[Part]:
    """Parts of a batch, in any order, with at most one for the bare base."""
    slots = draw(st.lists(st.none() | st.integers(0, 40), min_size=1, max_size=8, unique=True))
    lengths = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)
    return [Part(slot, draw(lengths), draw(st.none() | st.integers(0))) for slot in slots]


@st.composite
def rows_with_loss_masks(draw: st.DrawFn) -> tuple[list[int], list[int], list[int]]:
    """Lengths of examples, their tokens in one row, and which of these are learnt."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    tokens = st.integers(0, 99)
    row = st.lists(tokens, min_size=sum(lengths), max_size=sum(lengths))
    mask = st.lists(st.integers(0, 1), min_size=sum(lengths), max_size=sum(lengths))
    return lengths, draw(row), draw(mask)


def _joined(parts: tuple[tuple[str, str], str, tuple[str, str]]) -> tuple[str, str]:
    (left, lefts), operator, (right, rights) = parts
    python = "**" if operator == "^" else operator
    return f"({left} {operator} {right})", f"({lefts} {python} {rights})"


def _called(name: str, args: list[tuple[str, str]]) -> tuple[str, str]:
    ours, pythons = (", ".join(texts) for texts in zip(*args, strict=True))
    return f"{name}({ours})", f"{name}({pythons})"


_leaves = st.sampled_from(["a", "b", "1.0", "0.25", "3.0"]).map(lambda text: (text, text))
formulas: st.SearchStrategy[tuple[str, str]] = st.recursive(
    _leaves,
    lambda inner: (
        st.tuples(inner, st.sampled_from("+-*/^"), inner).map(_joined)
        | st.builds(_called, st.just("abs"), st.lists(inner, min_size=1, max_size=1))
        | st.builds(
            _called, st.sampled_from(["min", "max"]), st.lists(inner, min_size=2, max_size=3)
        )
    ),
    max_leaves=8,
)
"""Formulas over the names a and b, and how Python writes the same."""


model_shapes = st.builds(
    lambda layers, width, wider, heads, shared, **more: ModelShape(
        layers=layers,
        hidden=64 * width,
        intermediate=64 * width * wider,
        heads=heads * shared,
        kv_heads=heads,
        **more,
    ),
    layers=st.integers(1, 48),
    width=st.integers(1, 80),
    wider=st.integers(1, 4),
    heads=st.integers(1, 8),
    shared=st.integers(1, 8),
    head_dim=st.sampled_from([16, 64, 128]),
    vocabulary=st.integers(1000, 200_000),
    tied_head=st.booleans(),
    normed_heads=st.booleans(),
)
"""Bases from a toy's size to that of 15B."""

memory_demands = st.builds(
    Demand,
    targets=st.sampled_from(
        [frozenset({"q_proj", "v_proj"}), frozenset({"q_proj", "v_proj", "up_proj", "down_proj"})]
    ),
    training_slots=st.integers(0, 64),
    training_rank=st.integers(1, 64),
    serving_slots=st.integers(0, 64),
    serving_rank=st.integers(1, 64),
    kv_tokens=st.integers(0, 10**6),
    longest_tokens=st.sampled_from([0, 2048, 16384, 131072]),
)


class Scored(msgspec.Struct):
    """Sequences of tokens, and their scores by a base and by an adapter."""

    tokens: list[list[int]]
    base: list[list[float]]
    adapter: list[list[float]]


@st.composite
def scored_examples(draw: st.DrawFn) -> Scored:
    """One to four sequences of two to six tokens."""
    lengths = draw(st.lists(st.integers(2, 6), min_size=1, max_size=4))
    score = st.floats(-20, 0)

    def scores() -> list[list[float]]:
        return [draw(st.lists(score, min_size=n - 1, max_size=n - 1)) for n in lengths]

    return Scored([list(range(length)) for length in lengths], scores(), scores())


@st.composite
def mutations(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Ways to damage bytes: some overwritten, a piece cut out, or a piece put in twice."""
    share = st.floats(0, 1, exclude_max=True)
    kind = draw(st.sampled_from(["overwrite", "cut", "repeat"]))
    places = draw(st.lists(st.tuples(share, st.integers(0, 255)), min_size=1, max_size=4))
    length = draw(st.sampled_from([1, 7, 512, 1024, 1 << 20]))

    def change(content: bytes) -> bytes:
        changed = bytearray(content)
        if kind == "overwrite":
            for place, value in places:
                changed[int(place * len(changed))] = value
            return bytes(changed)
        at = int(places[0][0] * len(changed))
        piece = changed[at : at + length]
        changed[at : at + length] = piece * 2 if kind == "repeat" else b""
        return bytes(changed)

    return change


instants = st.integers(0, 4_000_000_000)
GROUPS: list[GroupBy] = ["api_key_id", "model", "adapter", "revision", "job_id"]


def used_on(days: range) -> st.SearchStrategy[Used]:
    """Draw a counter of one of these days; few names, so that some meet."""
    few, maybe = st.sampled_from("ab"), st.none() | st.sampled_from("ab")
    counts = st.integers(0, 1000)
    return st.builds(
        Used,
        day=st.sampled_from(days),
        kind=st.sampled_from(["generated", "trained"]),
        amount=st.builds(Amount, counts, counts, counts),
        api_key_id=maybe,
        model=few,
        adapter=maybe,
        revision=maybe,
        job_id=maybe,
    )


Schema = dict[str, Any]


def schemas(*, of_objects: bool = False) -> st.SearchStrategy[Schema]:
    """JSON Schemas whose documents are small: nothing in them can go on for ever."""
    nested = st.recursive(_leaf_schemas(), _wider_schemas, max_leaves=4)
    # References are to the root, wherever the schema is put.
    referring = st.builds(
        lambda whole, part: {
            **whole,
            "properties": {**whole["properties"], "s": {"$ref": "#/$defs/s"}},
            "$defs": {"s": part},
        },
        _object_schemas(nested),
        nested,
    )
    return _object_schemas(nested) | referring if of_objects else nested | referring


def _leaf_schemas() -> st.SearchStrategy[Schema]:
    values = st.lists(st.sampled_from(["a", 'b"c', "d é", 1, None, True]), min_size=1, unique=True)
    ranges = st.tuples(st.integers(-20, 20), st.integers(0, 30))
    return st.one_of(
        st.builds(lambda allowed: {"enum": allowed}, values),
        ranges.map(lambda at: {"type": "integer", "minimum": at[0], "maximum": sum(at)}),
        st.builds(lambda most: {"type": "string", "maxLength": most}, st.integers(0, 6)),
        st.sampled_from([{"type": ["null", "boolean"]}, {"const": "x"}]),
        st.just({"type": "string", "pattern": "^[a-c]{1,3}$"}),
    )


def _wider_schemas(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    return st.one_of(
        _object_schemas(inner),
        st.builds(lambda items: {"type": "array", "items": items, "maxItems": 2}, inner),
        st.lists(inner, min_size=1, max_size=2).map(lambda any_of: {"anyOf": any_of}),
    )


def _object_schemas(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    def closed(properties: Schema, optional: bool) -> Schema:
        required = [] if optional else [*properties]
        return {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }

    return st.builds(
        closed, st.dictionaries(st.sampled_from("pqr"), inner, max_size=2), st.booleans()
    )
