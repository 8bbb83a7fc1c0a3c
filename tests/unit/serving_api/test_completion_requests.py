"""What a completion request may say, and what is understood of it."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadRequest, UnsupportedField
from service.serving.completion_schemas import MOST_PROMPTS, CompletionRequest
from service.serving.engine import Sampling
from service.serving.orders import Order, Raw, bounded
from service.serving.translate import completion_order

IDS = st.lists(st.integers(0, 4095), min_size=1)


def request(**fields: Any) -> CompletionRequest:
    return msgspec.convert({"model": "m", "prompt": "p", **fields}, CompletionRequest)


def order(**fields: Any) -> Order:
    return completion_order(request(**fields))


def test_defaults_are_openais() -> None:
    made = order()
    assert made == Order(prompt=Raw(["p"]), sampling=Sampling(max_tokens=16), max_tokens_param=None)


@given(st.text())
def test_a_text_is_one_prompt(text: str) -> None:
    assert order(prompt=text).prompt == Raw([text])


@given(st.lists(st.text(), min_size=1))
def test_a_list_of_texts_is_many_prompts(texts: list[str]) -> None:
    assert order(prompt=texts).prompt == Raw([*texts])


@given(IDS)
def test_a_list_of_token_ids_is_one_prompt(ids: list[int]) -> None:
    assert order(prompt=ids).prompt == Raw([ids])


@given(st.lists(IDS, min_size=1))
def test_a_list_of_token_id_lists_is_many_prompts(lists: list[list[int]]) -> None:
    assert order(prompt=lists).prompt == Raw([*lists])


@pytest.mark.parametrize("prompt", [["a", 1], [1, [2]], ["a", [1]], ["a"] * (MOST_PROMPTS + 1)])
def test_mixtures_and_too_many_prompts_are_refused(prompt: object) -> None:
    with pytest.raises(BadRequest) as raised:
        order(prompt=prompt)
    assert raised.value.param == "prompt"


@pytest.mark.parametrize("prompt", [None, [], 5, {"text": "p"}, [-1], [2**31], [[-1]], [None]])
def test_other_shapes_of_prompt_are_refused(prompt: object) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.prompt"):
        request(prompt=prompt)


@pytest.mark.parametrize(
    ("field", "neutral", "asking"),
    [
        ("suffix", "", "end"),
        ("echo", False, True),
        ("best_of", 1, 4),
    ],
)
def test_fields_that_would_change_the_answer_are_refused_by_name(
    field: str, neutral: object, asking: object
) -> None:
    assert order(**{field: neutral}) == order()
    with pytest.raises(UnsupportedField, match=field) as raised:
        order(**{field: asking})
    assert raised.value.param == field


def test_best_of_may_equal_n() -> None:
    assert order(n=3, best_of=3).sampling.n == 3
    with pytest.raises(UnsupportedField):
        order(n=3, best_of=1)


@pytest.mark.parametrize("logprobs", [None, 0, 5])
def test_logprobs_are_a_number(logprobs: int | None) -> None:
    assert order(logprobs=logprobs).sampling.logprobs == logprobs


@pytest.mark.parametrize("logprobs", [6, -1, True])
def test_other_logprobs_are_refused(logprobs: object) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.logprobs"):
        request(logprobs=logprobs)


def test_the_default_shrinks_to_what_the_context_leaves_but_a_wish_does_not() -> None:
    assert bounded(order(), 2040, 2048).max_tokens == 8
    with pytest.raises(BadRequest) as raised:
        bounded(order(max_tokens=9), 2040, 2048)
    assert (raised.value.param, raised.value.code) == ("max_tokens", "context_length_exceeded")
    with pytest.raises(BadRequest) as raised:
        bounded(order(), 2048, 2048)
    assert raised.value.param == "prompt"
