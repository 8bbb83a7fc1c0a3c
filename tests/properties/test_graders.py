"""Whatever a model says, a grader scores it; whatever a tenant writes, nothing but text is done."""

import math
from functools import cache

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.training.graders import templates
from service.training.graders.faults import GraderFault
from service.training.graders.formula import Formula
from service.training.graders.similarity import METRICS, common_length, similarity
from tests.strategies import formulas, json_values, plain_text

metrics = st.sampled_from(sorted(METRICS))
words = st.lists(st.sampled_from(["a", "b", "cat", "Cat", "c."]), max_size=8).map(" ".join)
texts = words | plain_text


@given(metrics, texts, texts)
def test_a_similarity_is_from_0_to_1_and_1_of_the_same(metric: str, one: str, other: str) -> None:
    assert 0 <= similarity(metric, one, other) <= 1
    assert similarity(metric, one, one) == 1


@given(metrics.filter(lambda metric: metric != "bleu"), texts, texts)
def test_all_but_bleu_are_symmetric(metric: str, one: str, other: str) -> None:
    assert similarity(metric, one, other) == pytest.approx(similarity(metric, other, one))


@given(st.text("abc", max_size=12), st.text("abc", max_size=12))
def test_the_longest_common_subsequence_is_that_of_the_table(one: str, other: str) -> None:
    @cache
    def length(i: int, j: int) -> int:
        if not i or not j:
            return 0
        if one[i - 1] == other[j - 1]:
            return length(i - 1, j - 1) + 1
        return max(length(i - 1, j), length(i, j - 1))

    assert common_length(one, other) == length(len(one), len(other))


@given(st.text(max_size=30) | st.from_regex(r"(\{\{ ?(item|sample)[.\[\]a-z0-9_]* ?\}\}|x){0,4}"))
def test_any_template_is_text_with_places_or_refused(template: str) -> None:
    try:
        text = templates.parse(template, "input")
    except GraderFault:
        return
    assert len(text.plain) == len(text.places) + 1
    if not text.places:
        assert text.fill("answer", {}) == template


@given(json_values, st.text())
def test_a_field_is_filled_in_as_it_is_written(value: object, answer: str) -> None:
    text = templates.parse("<{{ item.field }}>", "input")
    if value is None:
        with pytest.raises(GraderFault):
            text.fill(answer, {"field": value})
        return
    written = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    assert text.fill(answer, {"field": value}) == f"<{written}>"


@given(formulas, st.floats(0, 1), st.floats(0, 1))
def test_a_formula_is_what_python_computes_or_none(
    formula: tuple[str, str], a: float, b: float
) -> None:
    ours, pythons = formula
    found = Formula(ours, ["a", "b"]).value({"a": a, "b": b})
    names = {"__builtins__": {}, "a": a, "b": b, "min": min, "max": max, "abs": abs}
    try:
        expected = eval(pythons, names)
    except (ArithmeticError, ValueError):
        assert found is None
        return
    if isinstance(expected, complex) or not math.isfinite(expected):
        assert found is None
    else:
        assert found == pytest.approx(float(expected))


@given(st.text(max_size=60) | st.text("ab+-*/^(), .1e", max_size=40))
def test_any_text_is_a_formula_with_a_finite_value_or_refused(text: str) -> None:
    try:
        formula = Formula(text, ["a", "b"])
    except GraderFault:
        return
    value = formula.value({"a": 0.5, "b": 0.0})
    assert value is None or abs(value) < float("inf")
