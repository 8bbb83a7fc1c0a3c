"""`openai` for Python: answers that keep to a schema, and calls of functions."""

import json

import openai
import pytest
from lessons import ADA, ASKED, TOOL, WEATHER, WEATHER_ANSWER, WHO, GetWeather, Person
from openai import OpenAI

NAMED = {"type": "function", "function": {"name": "GetWeather"}}


def test_parse_gives_what_the_schema_says(client: OpenAI, model: str) -> None:
    answer = client.chat.completions.parse(
        model=model, messages=WHO, temperature=0, n=2, response_format=Person
    )
    assert [choice.message.parsed for choice in answer.choices] == [ADA, ADA]
    assert answer.choices[0].message.refusal is None


def test_a_stream_is_parsed_as_it_comes(client: OpenAI, model: str) -> None:
    with client.chat.completions.stream(
        model=model, messages=WHO, temperature=0, response_format=Person
    ) as stream:
        parsed = [event.parsed for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert parsed[-1] == ADA.model_dump()
    assert final.choices[0].message.parsed == ADA


def test_any_json(client: OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=WHO, temperature=0, response_format={"type": "json_object"}
    )
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_an_answer_that_was_cut_is_not_parsed(client: OpenAI, model: str) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(
            model=model, messages=WHO, max_completion_tokens=2, response_format=Person
        )


def test_a_schema_that_cannot_be_kept_is_refused(client: OpenAI, model: str) -> None:
    schema = {"name": "broken", "strict": True, "schema": {"type": "nothing"}}
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model=model,
            messages=WHO,
            response_format={"type": "json_schema", "json_schema": schema},
        )
    assert refused.value.param.startswith("response_format")


@pytest.mark.parametrize("choice", ["auto", "required", NAMED])
def test_a_function_is_called_and_answered(client: OpenAI, model: str, choice: object) -> None:
    first = client.chat.completions.parse(
        model=model, messages=ASKED, temperature=0, tools=[TOOL], tool_choice=choice
    )
    [call] = first.choices[0].message.tool_calls
    assert call.function.name == "GetWeather"
    assert call.function.parsed_arguments == GetWeather(city="Paris")
    assert first.choices[0].finish_reason == "tool_calls"
    told = {"role": "tool", "tool_call_id": call.id, "content": WEATHER}
    last = client.chat.completions.create(
        model=model,
        messages=[*ASKED, first.choices[0].message, told],
        temperature=0,
        tools=[TOOL],
        parallel_tool_calls=False,
    )
    assert last.choices[0].message.content == WEATHER_ANSWER
    assert last.choices[0].finish_reason == "stop"
    assert last.choices[0].message.tool_calls is None


def test_no_function_is_called_unasked(client: OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=ASKED, temperature=0, tools=[TOOL], tool_choice="none"
    )
    assert answer.choices[0].message.tool_calls is None


def test_a_call_is_streamed(client: OpenAI, model: str) -> None:
    with client.chat.completions.stream(
        model=model, messages=ASKED, temperature=0, tools=[TOOL]
    ) as stream:
        events = [e for e in stream if e.type.startswith("tool_calls.function.arguments")]
        final = stream.get_final_completion()
    assert "".join(e.arguments_delta for e in events[:-1]) == events[-1].arguments
    assert events[-1].parsed_arguments == GetWeather(city="Paris")
    assert final.choices[0].message.tool_calls[0].function.name == "GetWeather"
    assert final.choices[0].finish_reason == "tool_calls"


def test_tools_that_are_no_tools_are_refused_by_name(client: OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model=model,
            messages=ASKED,
            tools=[TOOL],
            tool_choice={"type": "function", "function": {"name": "other"}},
        )
    assert refused.value.param.startswith("tool_choice")
