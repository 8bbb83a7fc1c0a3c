"""`langchain-openai`: chat models and completions, their streams, their usage and their errors."""

import asyncio

import page
import pytest
from asking import repeatedly
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI
from lessons import (
    ADA,
    PERSON_QUESTION,
    SECRET,
    SECRET_QUESTION,
    WEATHER,
    WEATHER_ANSWER,
    WEATHER_QUESTION,
    GetWeather,
    Person,
)
from openai import AuthenticationError, NotFoundError, RateLimitError


@pytest.fixture
def chat(model: str) -> ChatOpenAI:
    return ChatOpenAI(model=model, temperature=0)


def test_an_answer(chat: ChatOpenAI, model: str) -> None:
    answer = chat.invoke(SECRET_QUESTION)
    assert answer.content == SECRET
    assert answer.response_metadata["model_name"] == model
    assert answer.response_metadata["finish_reason"] == "stop"
    used = answer.usage_metadata
    assert used["total_tokens"] == used["input_tokens"] + used["output_tokens"] > 0


def test_asynchronously_and_many(chat: ChatOpenAI) -> None:
    assert asyncio.run(chat.ainvoke(SECRET_QUESTION)).content == SECRET
    assert [answer.content for answer in chat.batch([SECRET_QUESTION] * 4)] == [SECRET] * 4


def test_streams(chat: ChatOpenAI, model: str) -> None:
    assert "".join(chunk.content for chunk in chat.stream(SECRET_QUESTION)) == SECRET
    counted = ChatOpenAI(model=model, temperature=0, stream_usage=True)
    whole = None
    for chunk in counted.stream(SECRET_QUESTION):
        whole = chunk if whole is None else whole + chunk
    assert whole.content == SECRET
    assert whole.usage_metadata["output_tokens"] > 0


def test_every_field_that_it_knows(model: str) -> None:
    chat = ChatOpenAI(
        model=model,
        temperature=0.1,
        max_completion_tokens=20,
        logprobs=True,
        top_logprobs=2,
        n=2,
        seed=1,
        stop=["never"],
        presence_penalty=0.1,
        frequency_penalty=0.1,
        top_p=0.9,
        logit_bias={"5": 1},
        store=False,
        metadata={"kind": "test"},
        service_tier="default",
        verbosity="medium",
        extra_body={"top_k": 5},
    )
    answer = chat.invoke(SECRET_QUESTION)
    assert len(answer.response_metadata["logprobs"]["content"][0]["top_logprobs"]) == 2


def test_a_conversation_with_every_kind_of_turn(chat: ChatOpenAI) -> None:
    call = {"name": "look_up", "args": {"word": "secret"}, "id": "call_1"}
    answer = chat.invoke(
        [
            SystemMessage("Be brief."),
            HumanMessage([{"type": "text", "text": SECRET_QUESTION}], name="joe"),
            AIMessage("", tool_calls=[call]),
            ToolMessage(SECRET, tool_call_id="call_1"),
            AIMessage(SECRET),
            HumanMessage(SECRET_QUESTION),
        ]
    )
    assert answer.usage_metadata["input_tokens"] > 40


@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
def test_structured_output(chat: ChatOpenAI, method: str) -> None:
    who = chat.with_structured_output(Person, method=method)
    assert who.invoke(PERSON_QUESTION) == ADA


def test_structured_output_by_a_call(chat: ChatOpenAI) -> None:
    where = chat.with_structured_output(GetWeather, method="function_calling")
    assert where.invoke(WEATHER_QUESTION) == GetWeather(city="Paris")


def test_a_function_is_called_and_answered(chat: ChatOpenAI) -> None:
    able = chat.bind_tools([GetWeather], strict=True)
    first = able.invoke(WEATHER_QUESTION)
    [call] = first.tool_calls
    assert (call["name"], call["args"]) == ("GetWeather", {"city": "Paris"})
    told = ToolMessage(WEATHER, tool_call_id=call["id"])
    assert able.invoke([HumanMessage(WEATHER_QUESTION), first, told]).content == WEATHER_ANSWER


@pytest.mark.parametrize("choice", ["auto", "any", "GetWeather"])
def test_a_call_is_streamed(chat: ChatOpenAI, choice: str) -> None:
    able = chat.bind_tools([GetWeather], tool_choice=choice, parallel_tool_calls=False)
    whole = None
    for chunk in able.stream(WEATHER_QUESTION):
        whole = chunk if whole is None else whole + chunk
    [call] = whole.tool_calls
    assert (call["name"], call["args"]) == ("GetWeather", {"city": "Paris"})


def test_completions(model: str) -> None:
    say = OpenAI(model=model, max_tokens=4, temperature=0)
    whole = say.invoke("Say")
    assert whole
    assert "".join(say.stream("Say")) == whole
    assert len(say.generate(["Say", "Tell"]).generations) == 2


def test_errors_have_their_classes(chat: ChatOpenAI, limited_key: str) -> None:
    with pytest.raises(ContextOverflowError):
        chat.invoke("word " * 4000)
    with pytest.raises(ContextOverflowError):
        list(chat.stream("word " * 4000))
    with pytest.raises(NotFoundError):
        ChatOpenAI(model="gpt-4o").invoke(SECRET_QUESTION)
    with pytest.raises(AuthenticationError):
        ChatOpenAI(model="lorehouse-tiny", api_key="lh-wrong").invoke(SECRET_QUESTION)
    limited = ChatOpenAI(model="lorehouse-tiny", api_key=limited_key, max_retries=0, max_tokens=1)
    with pytest.raises(RateLimitError):
        repeatedly(lambda: limited.invoke(SECRET_QUESTION))


def test_the_page_is_true(capsys: pytest.CaptureFixture[str]) -> None:
    page.run("langchain-openai")
    assert capsys.readouterr().out
