"""What a chat request may say, and what is understood of it."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadRequest, UnsupportedField
from service.rendering.examples import Message
from service.serving.chat_schemas import ChatRequest
from service.serving.engine import Sampling
from service.serving.orders import SHORT_CHARACTERS, Conversation, Order, bounded, is_short
from service.serving.translate import chat_order, wants_usage

CONTEXT = 2048
USER = {"role": "user", "content": "hello"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def request(**fields: Any) -> ChatRequest:
    return msgspec.convert({"model": "m", "messages": [USER], **fields}, ChatRequest)


def order(**fields: Any) -> Order:
    return chat_order(request(**fields), CONTEXT)


def turns(*messages: dict[str, Any]) -> list[Message]:
    prompt = order(messages=list(messages)).prompt
    assert isinstance(prompt, Conversation)
    return prompt.messages


def test_defaults_are_openais() -> None:
    made = order()
    assert made.sampling == Sampling(max_tokens=CONTEXT)
    assert made.max_tokens_param is None
    assert made.prompt == Conversation([Message("user", "hello")])


def test_null_means_absent_in_every_optional_field() -> None:
    optional = [f.name for f in msgspec.structs.fields(ChatRequest) if not f.required]
    assert order(**dict.fromkeys(optional)) == order()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", "hot"),
        ("top_p", 0),
        ("top_p", 1.01),
        ("max_tokens", 0),
        ("max_completion_tokens", -1),
        ("max_tokens", 1.5),
        ("n", 0),
        ("n", 129),
        ("stop", ""),
        ("stop", ["a", ""]),
        ("stop", ["x"] * 17),
        ("seed", 2**63),
        ("top_logprobs", 21),
        ("messages", []),
        ("model", ""),
        ("metadata", {str(i): "v" for i in range(17)}),
        ("metadata", {"k" * 65: "v"}),
        ("metadata", {"k": "v" * 513}),
        ("metadata", {"k": 1}),
        ("service_tier", "gold"),
    ],
)
def test_values_out_of_range_are_refused_by_path(field: str, value: object) -> None:
    with pytest.raises(msgspec.ValidationError, match=rf"`\$\.{field}"):
        request(**{field: value})


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field `temprature`"):
        request(temprature=1)


@pytest.mark.parametrize(
    ("field", "neutral", "asking"),
    [
        ("functions", [], [{"name": "f"}]),
        ("function_call", "none", {"name": "f"}),
        ("modalities", ["text"], ["text", "audio"]),
        ("audio", None, {"voice": "alloy", "format": "mp3"}),
        ("prediction", None, {"type": "content", "content": "x"}),
        ("web_search_options", None, {}),
        ("moderation", None, {"model": "m"}),
        ("reasoning_effort", "none", "high"),
        ("verbosity", "medium", "low"),
    ],
)
def test_fields_that_would_change_the_answer_are_refused_by_name(
    field: str, neutral: object, asking: object
) -> None:
    assert order(**{field: neutral}) == order()
    with pytest.raises(UnsupportedField, match=field) as raised:
        order(**{field: asking})
    assert raised.value.param == field
    assert raised.value.code == "unsupported_parameter"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("user", "u-1"),
        ("safety_identifier", "s"),
        ("prompt_cache_key", "k"),
        ("prompt_cache_retention", "24h"),
        ("prompt_cache_options", {"mode": "implicit"}),
        ("service_tier", "flex"),
        ("store", True),
        ("metadata", {str(i): "v" for i in range(16)}),
        ("parallel_tool_calls", False),
        ("response_format", {"type": "text"}),
        ("tools", []),
        ("tool_choice", "none"),
    ],
)
def test_fields_that_change_nothing_here_are_accepted(field: str, value: object) -> None:
    assert order(**{field: value}) == order()


@given(st.integers(1, CONTEXT), st.integers(1, CONTEXT))
def test_both_names_of_the_token_limit_must_agree(new: int, old: int) -> None:
    if new != old:
        with pytest.raises(BadRequest) as raised:
            order(max_completion_tokens=new, max_tokens=old)
        assert raised.value.param == "max_tokens"
    else:
        assert order(max_completion_tokens=new, max_tokens=old).sampling.max_tokens == new
    assert order(max_tokens=old).max_tokens_param == "max_tokens"
    assert order(max_completion_tokens=new).max_tokens_param == "max_completion_tokens"


@given(
    prompt=st.integers(1, 3000),
    asked=st.none() | st.integers(1, 3000),
    context=st.integers(1, 3000),
)
def test_prompt_and_answer_always_fit_the_context(
    prompt: int, asked: int | None, context: int
) -> None:
    made = chat_order(request(max_tokens=asked), context)
    fits = prompt < context and (asked is None or prompt + asked <= context)
    if fits:
        sampling = bounded(made, prompt, context)
        assert sampling.max_tokens == (asked or context - prompt)
    else:
        with pytest.raises(BadRequest) as raised:
            bounded(made, prompt, context)
        assert raised.value.code == "context_length_exceeded"
        assert raised.value.param == ("messages" if prompt >= context else "max_tokens")
        assert str(context) in raised.value.message
        assert str(prompt) in raised.value.message


def test_only_few_short_turns_without_more_are_prepared_at_once() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    assistant = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    answer = {"role": "tool", "tool_call_id": "c", "content": "4"}
    long = {"role": "user", "content": "a" * SHORT_CHARACTERS}
    assert is_short(order())
    for more in (
        {"messages": [long]},
        {"messages": [USER] * SHORT_CHARACTERS},
        {"messages": [USER, assistant, answer]},
        {"tools": tools},
        {"response_format": {"type": "json_object"}},
    ):
        assert not is_short(order(**more)), more


def test_top_logprobs_need_logprobs() -> None:
    with pytest.raises(BadRequest) as raised:
        order(top_logprobs=2)
    assert raised.value.param == "top_logprobs"
    assert order(logprobs=True, top_logprobs=2).sampling.logprobs == 2
    assert order(logprobs=True).sampling.logprobs == 0
    assert order(logprobs=False).sampling.logprobs is None


def test_a_temperature_too_small_to_divide_by_is_greedy() -> None:
    assert order(temperature=1e-300).sampling.temperature == 0
    assert order(temperature=0).sampling.temperature == 0
    assert order(temperature=0.001).sampling.temperature == 0.001


def test_stop_is_a_string_or_a_list() -> None:
    assert order(stop="a").sampling.stop == ("a",)
    assert order(stop=["a", "b"]).sampling.stop == ("a", "b")
    assert order(stop=[]).sampling.stop == ()


def test_stream_options_need_a_stream() -> None:
    asked = request(stream_options={"include_usage": True})
    with pytest.raises(BadRequest) as raised:
        wants_usage(asked.stream, asked.stream_options)
    assert raised.value.param == "stream_options"
    assert wants_usage(True, asked.stream_options)
    assert not wants_usage(True, None)
    assert not wants_usage(True, request(stream_options={}).stream_options)


def test_obfuscation_is_refused_by_name() -> None:
    asked = request(stream_options={"include_obfuscation": True})
    with pytest.raises(UnsupportedField) as raised:
        wants_usage(True, asked.stream_options)
    assert raised.value.param == "stream_options.include_obfuscation"


def test_all_roles_are_taken_over() -> None:
    assert turns(
        {"role": "developer", "content": "be kind"},
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi", "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "42", "tool_call_id": "c"},
        {"role": "function", "content": "43", "name": "g"},
    ) == [
        Message("developer", "be kind"),
        Message("system", "be brief"),
        Message("user", "hi", name="ann"),
        Message("assistant", None, tool_calls=[CALL]),
        Message("tool", "42", tool_call_id="c"),
        Message("function", "43", name="g"),
    ]


@pytest.mark.parametrize("after", [[], [USER]])
def test_each_call_of_a_tool_is_answered(after: list[dict[str, Any]]) -> None:
    calls = [CALL, {**CALL, "id": "d"}]
    asked = {"role": "assistant", "tool_calls": calls}
    answers = [{"role": "tool", "content": "1", "tool_call_id": one} for one in ("d", "c")]
    assert len(turns(USER, asked, *answers, *after)) == 4 + len(after)
    with pytest.raises(BadRequest, match="are not: c"):
        turns(USER, asked, answers[0], *after)
    with pytest.raises(BadRequest) as raised:
        turns(USER, asked, answers[0], answers[0], *after)
    assert raised.value.param == "messages[3].tool_call_id"


def test_an_answer_of_ours_may_be_sent_back_as_the_sdk_dumps_it() -> None:
    dumped = {
        "content": "hi",
        "refusal": None,
        "role": "assistant",
        "annotations": None,
        "audio": None,
        "function_call": None,
        "tool_calls": None,
    }
    assert turns(USER, dumped)[1] == Message("assistant", "hi")


@given(st.lists(st.text(), min_size=1))
def test_text_parts_are_joined(texts: list[str]) -> None:
    parts = [{"type": "text", "text": text} for text in texts]
    assert turns({"role": "user", "content": parts}) == [Message("user", "".join(texts))]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:,"}},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "refusal", "refusal": "no"},
    ],
)
def test_other_parts_are_refused_by_name(part: dict[str, Any]) -> None:
    text = {"type": "text", "text": "see"}
    with pytest.raises(UnsupportedField, match=part["type"]) as raised:
        turns({"role": "user", "content": [text, part]})
    assert raised.value.param == "messages[0].content[1].type"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user"}, "content"),
        ({"role": "user", "content": None}, "content"),
        ({"role": "user", "content": []}, "content"),
        ({"role": "user", "content": [{"type": "text"}]}, "content[0].text"),
        ({"role": "assistant", "content": None}, "content"),
        ({"role": "tool", "content": "x"}, "tool_call_id"),
        ({"role": "function", "content": "x"}, "name"),
        ({"role": "tool", "content": "x", "tool_call_id": "c"}, "tool_call_id"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "tool_calls"),
        ({"role": "assistant", "content": "x", "refusal": "no"}, "refusal"),
        ({"role": "assistant", "content": "x", "function_call": {"name": "f"}}, "function_call"),
        ({"role": "assistant", "content": "x", "audio": {"id": "a"}}, "audio"),
    ],
)
def test_a_bad_message_is_named(message: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as raised:
        turns(USER, message)
    assert raised.value.param == f"messages[1].{param}"


@pytest.mark.parametrize("role", ["Assistant", "bot", ""])
def test_unknown_roles_are_refused(role: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.messages\[0\]\.role"):
        request(messages=[{"role": role, "content": "x"}])
