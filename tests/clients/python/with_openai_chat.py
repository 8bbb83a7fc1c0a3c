"""`openai` for Python: chat and completions, synchronous, asynchronous and streamed; its errors."""

import asyncio

import httpx2
import openai
import pytest
from asking import repeatedly
from lessons import QUESTION, SECRET
from openai import AsyncOpenAI, OpenAI


def test_an_answer(client: OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=QUESTION, temperature=0, n=2, logprobs=True, top_logprobs=2
    )
    assert answer.model == model
    assert [choice.message.content for choice in answer.choices] == [SECRET, SECRET]
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        assert "".join(token.token for token in choice.logprobs.content) == SECRET
        assert all(len(token.top_logprobs) == 2 for token in choice.logprobs.content)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_stop_and_limits(client: OpenAI, model: str) -> None:
    stopped = client.chat.completions.create(
        model=model, messages=QUESTION, temperature=0, stop=["lade", "never"]
    )
    cut = client.chat.completions.create(
        model=model, messages=QUESTION, temperature=0, max_completion_tokens=1
    )
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == (
        "marma",
        "stop",
    )
    assert cut.choices[0].finish_reason == "length"
    assert cut.usage.completion_tokens == 1


def test_an_answer_goes_back_into_the_conversation(client: OpenAI, model: str) -> None:
    first = client.chat.completions.create(model=model, messages=QUESTION, temperature=0)
    again = client.chat.completions.create(
        model=model, messages=[*QUESTION, first.choices[0].message, *QUESTION], max_tokens=5
    )
    assert again.usage.prompt_tokens > first.usage.total_tokens


def test_a_stream_with_usage(client: OpenAI, model: str) -> None:
    chunks = list(
        client.chat.completions.create(
            model=model,
            messages=QUESTION,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == SECRET
    assert [c.usage is not None for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []


def test_the_stream_helper(client: OpenAI, model: str) -> None:
    with client.chat.completions.stream(model=model, messages=QUESTION, temperature=0) as stream:
        said = "".join(event.delta for event in stream if event.type == "content.delta")
        final = stream.get_final_completion()
    assert said == final.choices[0].message.content == SECRET


def test_many_at_once_asynchronously(model: str) -> None:
    async def talk() -> list[str]:
        async with AsyncOpenAI() as client:

            async def ask() -> str:
                stream = await client.chat.completions.create(
                    model=model, messages=QUESTION, temperature=0, stream=True
                )
                return "".join([c.choices[0].delta.content or "" async for c in stream])

            return await asyncio.gather(*[ask() for _ in range(8)])

    assert asyncio.run(talk()) == [SECRET] * 8


def test_completions(client: OpenAI, model: str) -> None:
    whole = client.completions.create(
        model=model, prompt=["Say", "Tell"], max_tokens=4, logprobs=2, seed=1
    )
    assert [choice.index for choice in whole.choices] == [0, 1]
    assert "".join(whole.choices[0].logprobs.tokens) == whole.choices[0].text
    chunks = client.completions.create(model=model, prompt="Say", max_tokens=4, seed=1, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text


def test_headers(client: OpenAI, model: str) -> None:
    raw = client.chat.completions.with_raw_response.create(model=model, messages=QUESTION)
    assert raw.request_id == raw.parse()._request_id
    assert raw.headers["x-lorehouse-revision"].startswith(model.rsplit(":", 1)[1])


def test_errors_have_their_classes(client: OpenAI, model: str) -> None:
    def ask(**fields: object) -> None:
        client.chat.completions.create(**{"model": model, "messages": QUESTION, **fields})

    with pytest.raises(openai.BadRequestError) as bad:
        ask(temperature=3)
    assert (bad.value.param, bad.value.code) == ("temperature", "invalid_value")
    with pytest.raises(openai.BadRequestError) as long:
        ask(messages=[{"role": "user", "content": "word " * 4000}])
    assert (long.value.param, long.value.code) == ("messages", "context_length_exceeded")
    with pytest.raises(openai.NotFoundError) as unknown:
        ask(model="gpt-4o")
    assert (unknown.value.param, unknown.value.code) == ("model", "model_not_found")
    assert unknown.value.request_id
    with OpenAI(api_key="lh-wrong") as stranger, pytest.raises(openai.AuthenticationError) as key:
        stranger.models.list()
    assert key.value.code == "invalid_api_key"


def test_a_rate_limit_says_when_to_come_again(limited_key: str) -> None:
    with (
        OpenAI(api_key=limited_key, max_retries=0) as client,
        pytest.raises(openai.RateLimitError) as limited,
    ):
        repeatedly(client.models.list)
    assert limited.value.code == "rate_limit_exceeded"
    assert 1 <= int(limited.value.response.headers["retry-after"]) <= 60


def test_what_is_not_offered_is_said_to_be_unknown(client: OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.responses.create(model=model, input="Hello")
    assert unknown.value.code == "unknown_url"
    assert "POST /v1/responses" in unknown.value.message


def test_timeouts_and_going_away(client: OpenAI, model: str) -> None:
    hasty = client.with_options(max_retries=0, timeout=httpx2.Timeout(5, read=0.001))
    with pytest.raises(openai.APITimeoutError):
        hasty.chat.completions.create(model=model, messages=QUESTION, n=8)
    with client.chat.completions.create(model=model, messages=QUESTION, stream=True) as stream:
        next(stream)
    assert client.chat.completions.create(model=model, messages=QUESTION).choices
