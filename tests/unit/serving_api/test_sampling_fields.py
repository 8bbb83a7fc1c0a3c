"""How tokens are picked: the fields that the three generation endpoints share."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from service.errors import BadRequest
from service.serving.chat_schemas import ChatRequest
from service.serving.completion_schemas import CompletionRequest
from service.serving.engine import Sampling
from service.serving.generate_schemas import GenerateRequest
from service.serving.orders import Order, bounded
from service.serving.schemas import MOST_BIASES, MOST_STOP_TOKENS
from service.serving.translate import chat_order, completion_order, generate_order

Read = Callable[..., Order]


def chat(**fields: Any) -> Order:
    given = {"model": "m", "messages": [{"role": "user", "content": "hello"}], **fields}
    return chat_order(msgspec.convert(given, ChatRequest), 2048)


def completion(**fields: Any) -> Order:
    given = {"model": "m", "prompt": "p", **fields}
    return completion_order(msgspec.convert(given, CompletionRequest))


def generate(**fields: Any) -> Order:
    return generate_order(msgspec.convert({"prompt": "p", **fields}, GenerateRequest))


@pytest.fixture(params=[chat, completion, generate])
def order(request: pytest.FixtureRequest) -> Read:
    read: Read = request.param
    return read


def test_every_field_is_taken_over(order: Read) -> None:
    fields = {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "presence_penalty": -1,
        "frequency_penalty": 1.5,
        "repetition_penalty": 1.1,
        "seed": -3,
        "min_tokens": 4,
        "ignore_eos": True,
    }
    lists = {"logit_bias": {"5": -100, "007": 2.5}, "stop": ["x"], "stop_token_ids": [3, 4]}
    assert order(max_tokens=9, **fields, **lists).sampling == Sampling(
        max_tokens=9,
        logit_bias={5: -100.0, 7: 2.5},
        stop=("x",),
        stop_token_ids=(3, 4),
        **fields,
    )


@pytest.mark.parametrize(
    "nothing",
    [
        {"presence_penalty": 0, "frequency_penalty": 0.0, "repetition_penalty": 1},
        {"logit_bias": {}, "stop": [], "stop_token_ids": []},
        {"top_k": -1},
        {"top_k": 0, "min_p": 0, "min_tokens": 0, "ignore_eos": False},
    ],
)
def test_values_that_ask_for_nothing_are_the_defaults(order: Read, nothing) -> None:
    assert order(**nothing) == order()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_k", -2),
        ("top_k", 2**31),
        ("top_k", 1.5),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("frequency_penalty", 2.1),
        ("frequency_penalty", float("nan")),
        ("presence_penalty", -2.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", 1000),
        ("logit_bias", [1]),
        ("logit_bias", {"1": -101}),
        ("logit_bias", {"1": None}),
        ("logit_bias", {str(n): 1 for n in range(MOST_BIASES + 1)}),
        ("stop_token_ids", 3),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", ["a"]),
        ("stop_token_ids", [1] * (MOST_STOP_TOKENS + 1)),
        ("min_tokens", -1),
        ("ignore_eos", "yes"),
    ],
)
def test_values_out_of_range_are_refused_by_path(order: Read, field: str, value: object) -> None:
    with pytest.raises(msgspec.ValidationError, match=rf"`\$\.{field}"):
        order(**{field: value})


@pytest.mark.parametrize("key", ["", "a", "-1", "1.5", "12345678901", "٣"])
def test_a_bias_is_of_a_token_id(order: Read, key: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"at `key` in `\$\.logit_bias`"):
        order(logit_bias={key: 1})


@pytest.mark.parametrize(("asked", "left"), [(None, 8), (5, 100)])
def test_a_minimum_that_does_not_fit_is_refused(order: Read, asked: int | None, left: int) -> None:
    most = min(asked or left, left)
    made = order(max_tokens=asked, min_tokens=most)
    assert bounded(made, 50, 50 + left).min_tokens == most
    with pytest.raises(BadRequest) as raised:
        bounded(order(max_tokens=asked, min_tokens=most + 1), 50, 50 + left)
    assert raised.value.param == "min_tokens"
