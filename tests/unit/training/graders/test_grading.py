"""Graders as OpenAI describes them."""

from typing import Any

import msgspec
import pytest

from service.training.graders.faults import GraderFault
from service.training.graders.grading import compile_grader
from service.training.graders.shapes import Grader
from service.training.graders.similarity import similarity

ITEM = {"answer": "Paris", "facts": [{"city": "Rome", "people": 3}], "none": None}


def shape(kind: str, **fields: Any) -> Grader:
    given = {"type": kind, "name": "x", "input": "{{ sample.output_text }}"} | fields
    return msgspec.convert(given, Grader)  # type: ignore[arg-type]


def check(operation: str, answer: str, reference: str = "{{item.answer}}") -> float | None:
    grader = shape("string_check", operation=operation, reference=reference)
    return compile_grader(grader)(answer, ITEM)


@pytest.mark.parametrize(
    ("operation", "answer", "score"),
    [
        ("eq", "Paris", 1),
        ("eq", "paris", 0),
        ("ne", "paris", 1),
        ("ne", "Paris", 0),
        ("like", "It is Paris.", 1),
        ("like", "It is paris.", 0),
        ("ilike", "It is PARIS.", 1),
        ("ilike", "It is Rome.", 0),
    ],
)
def test_a_string_is_checked(operation: str, answer: str, score: float) -> None:
    assert check(operation, answer) == score


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain", "plain"),
        ("<{{item.answer}}|{{ item.facts[0].city }}>", "<Paris|Rome>"),
        ("{{ item.facts[0].people }}", "3"),
        ("{{ item.facts }}", '[{"city":"Rome","people":3}]'),
        ("{{ sample.output_text }}", "{{ item.answer }}"),
    ],
)
def test_places_are_filled_and_what_fills_them_is_only_text(template: str, text: str) -> None:
    assert check("eq", "{{ item.answer }}", template) == (text == "{{ item.answer }}")
    grader = shape("string_check", operation="eq", input=template, reference="{{ item.want }}")
    assert compile_grader(grader)("{{ item.answer }}", ITEM | {"want": text}) == 1


@pytest.mark.parametrize(
    "template",
    ["{{ item.gone }}", "{{ item.facts[1] }}", "{{ item.answer[0] }}", "{{ item.none }}"],
)
def test_an_item_without_the_field_cannot_be_graded(template: str) -> None:
    with pytest.raises(GraderFault, match="there is no item"):
        check("eq", "x", template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ item }}",
        "{{ item.__class__.mro() }}",
        "{{ item['a'] }}",
        "{{ sample.choices }}",
        "{{ 7 * 7 }}",
        "{% if x %}{{ }}",
        "{{ item.a }} }}",
        "{{ {{ item.a }} }}",
    ],
)
def test_what_is_no_place_is_refused(template: str) -> None:
    with pytest.raises(GraderFault):
        check("eq", "x", template)


@pytest.mark.parametrize(
    ("metric", "text", "reference", "score"),
    [
        # rapidfuzz.fuzz.ratio("this is a test", "this is a test!") is 96.55.
        ("fuzzy_match", "this is a test", "this is a test!", 28 / 29),
        ("fuzzy_match", "", "x", 0),
        # Four of five words, two of four pairs, none of longer ones.
        ("gleu", "the cat sat on mats", "the cat sat the mats", 7 / 14),
        ("bleu", "the cat", "the dog", (1 / 2 * 1 / 2 * 1 * 1) ** 0.25),
        ("bleu", "cat", "dog", 0),
        ("rouge_1", "The cat, the dog", "the cat", 2 * 2 / 6),
        ("rouge_2", "the cat sat", "the cat ran", 1 / 2),
        ("rouge_3", "the cat", "the dog", 0),
        ("rouge_l", "police killed the gunman", "police kill the gunman", 3 / 4),
        ("rouge_l", "the gunman kill police", "police kill the gunman", 2 / 4),
    ],
)
def test_similarities_are_the_published_ones(
    metric: str, text: str, reference: str, score: float
) -> None:
    assert similarity(metric, text, reference) == pytest.approx(score)
    grader = shape("text_similarity", evaluation_metric=metric, reference=reference)
    assert compile_grader(grader)(text, {}) == pytest.approx(score)


def multi(formula: str, **answers: str) -> Any:
    parts = {
        name: {
            "type": "string_check",
            "name": name,
            "operation": "like",
            "input": "{{ sample.output_text }}",
            "reference": wanted,
        }
        for name, wanted in answers.items()
    }
    return shape_of_multi(formula, parts)


def shape_of_multi(formula: str, parts: dict[str, Any]) -> Any:
    given = {"type": "multi", "name": "m", "graders": parts, "calculate_output": formula}
    return compile_grader(msgspec.convert(given, Grader))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("formula", "score"),
    [
        ("0.7 * a + 0.3 * b", 0.7),
        ("(a + b) / 2", 0.5),
        ("max(a, b) - min(a, b, 1)", 1),
        ("2 ^ 3 ^ 0.5", 2 ** (3**0.5)),
        ("1 + 2 ^ 2", 5),
        ("-a ** 2", -1),
        ("floor(1.5) + ceil(1.5) + abs(-1) + sqrt(4) + exp(0) + log(1)", 7),
        ("max(a)", 1),
        ("1 / b", None),
        ("log(b)", None),
        ("9 ^ 9 ^ 9 ^ 9", None),
        ("(-1) ^ 0.5", None),
        ("exp(1000)", None),
    ],
)
def test_a_formula_combines_scores(formula: str, score: float | None) -> None:
    found = multi(formula, a="yes", b="no")("oh yes", {})
    assert found == (None if score is None else pytest.approx(score))


@pytest.mark.parametrize(
    "formula",
    [
        "",
        "a +",
        "c",
        "a.b",
        "a[0]",
        "a if b else a",
        "a < b",
        "a & b",
        "a // b",
        "lambda: 1",
        "[a for a in b]",
        "'a' * 9",
        "True",
        "1j",
        "max()",
        "sqrt(a, b)",
        "min(*a)",
        "max(a, key=b)",
        "round(a)",
        "__import__('os')",
        "(1).real",
        "a := 1",
        "(" * 300 + "a" + ")" * 300,
        "-" * 900 + "a",
        "9" * 400,
        "\0",
    ],
)
def test_nothing_but_arithmetic_is_a_formula(formula: str) -> None:
    with pytest.raises(GraderFault) as fault:
        multi(formula or " ", a="yes", b="no")
    assert fault.value.param == "calculate_output"
