"""What a generate request may say, and what is understood of it."""

from typing import Any

import msgspec
import pytest

from service.errors import BadRequest
from service.rendering.examples import Message
from service.serving.engine import Sampling
from service.serving.generate_schemas import GenerateRequest
from service.serving.orders import Conversation, Instruction, Order
from service.serving.translate import generate_order


def order(**fields: Any) -> Order:
    return generate_order(msgspec.convert(fields, GenerateRequest))


def test_a_prompt_is_rendered_as_the_adapter_was_trained() -> None:
    assert order(prompt="p") == Order(
        prompt=Instruction("p"), sampling=Sampling(max_tokens=256), max_tokens_param=None
    )


def test_messages_are_a_conversation() -> None:
    made = order(messages=[{"role": "user", "content": "p"}])
    assert made.prompt == Conversation([Message("user", "p")])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": None, "messages": None}, "prompt"),
        ({"prompt": "p", "messages": [{"role": "user", "content": "p"}]}, "messages"),
    ],
)
def test_exactly_one_of_prompt_and_messages(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as raised:
        order(**fields)
    assert raised.value.param == param


def test_every_field_is_taken_over() -> None:
    made = order(prompt="p", max_tokens=5, temperature=0, top_p=0.5, stop="x", seed=-3)
    assert made.sampling == Sampling(max_tokens=5, temperature=0, top_p=0.5, stop=("x",), seed=-3)
    assert made.max_tokens_param == "max_tokens"


@pytest.mark.parametrize("field", ["model", "n", "logprobs", "max_completion_tokens"])
def test_openais_other_fields_are_unknown_here(field: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=f"unknown field `{field}`"):
        order(prompt="p", **{field: 1})
