"""The unmodified `openai` SDK against a real server: what it sends is taken, and it can read us."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import openai
import pytest
from litestar import Litestar
from openai import AsyncOpenAI, OpenAI

from service.database import Database
from tests.fakes.engine import FakeEngine
from tests.integration.generating import BASE, publish, served

USER = "hello"


@pytest.fixture
def engine() -> FakeEngine:
    """Answers for any revision, stored or not."""
    return FakeEngine()


@pytest.fixture
async def url(app: Litestar) -> AsyncIterator[str]:
    async with served(app) as url:
        yield url + "/v1"


@pytest.fixture
def key(acme: httpx.AsyncClient) -> str:
    return str(acme.headers["authorization"]).removeprefix("Bearer ")


@pytest.fixture
async def sdk(url: str, key: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as sdk:
        yield sdk


@pytest.fixture
async def model(acme: httpx.AsyncClient, database: Database) -> str:
    return await publish(database, "acme", "support")


async def test_chat(sdk: AsyncOpenAI, model: str) -> None:
    answer = await sdk.chat.completions.create(
        model=model,
        messages=[{"role": "developer", "content": "be brief"}, {"role": "user", "content": USER}],
        max_completion_tokens=50,
        temperature=0,
        n=2,
        logprobs=True,
        top_logprobs=3,
        stop=["never"],
        seed=1,
        user="u-1",
        store=False,
        metadata={"k": "v"},
    )
    assert answer.model == model
    assert answer.system_fingerprint is not None
    assert len(answer.choices) == 2
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        assert choice.message.role == "assistant"
        assert choice.message.content is not None
        assert choice.message.content.startswith("support ")
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert len(choice.logprobs.content[0].top_logprobs) == 3
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 18


async def test_an_answer_can_be_sent_back(sdk: AsyncOpenAI, model: str) -> None:
    first = await sdk.chat.completions.create(
        model=model, messages=[{"role": "user", "content": USER}]
    )
    second = await sdk.chat.completions.create(
        model=model,
        messages=[
            {"role": "user", "content": USER},
            first.choices[0].message.model_dump(),  # type: ignore[list-item]
            {"role": "user", "content": [{"type": "text", "text": "go on"}]},
        ],
    )
    assert second.choices[0].message.content


async def test_chat_streamed(sdk: AsyncOpenAI, model: str) -> None:
    stream = await sdk.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": USER}],
        stream=True,
        stream_options={"include_usage": True},
    )
    text, used, reason = "", None, None
    async for chunk in stream:
        assert chunk.model == model
        used = chunk.usage or used
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    assert text.startswith("support ")
    assert reason == "stop"
    assert used is not None
    assert used.completion_tokens == 9


async def test_the_stream_helper_puts_a_completion_together(sdk: AsyncOpenAI, model: str) -> None:
    async with sdk.chat.completions.stream(
        model=model, messages=[{"role": "user", "content": USER}], logprobs=True
    ) as stream:
        kinds = {event.type async for event in stream}
        final = await stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done", "logprobs.content.done"} <= kinds
    assert final.choices[0].message.content is not None
    assert final.choices[0].message.content.startswith("support ")


async def test_completions(sdk: AsyncOpenAI, model: str) -> None:
    answer = await sdk.completions.create(model=model, prompt=["a", "b"], logprobs=2, max_tokens=3)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.tokens is not None
    assert "".join(answer.choices[0].logprobs.tokens) == answer.choices[0].text


async def test_completions_streamed(sdk: AsyncOpenAI, model: str) -> None:
    stream = await sdk.completions.create(model=model, prompt=[5, 6], stream=True)
    texts = [chunk.choices[0].text async for chunk in stream]
    assert "".join(texts).startswith("support ")


async def test_the_synchronous_client_as_well(url: str, key: str, model: str) -> None:
    def talk() -> tuple[str, str, str]:
        with OpenAI(base_url=url, api_key=key, max_retries=0) as sdk:
            whole = sdk.chat.completions.create(
                model=model, messages=[{"role": "user", "content": USER}], seed=1
            )
            chunks = sdk.chat.completions.create(
                model=model, messages=[{"role": "user", "content": USER}], seed=1, stream=True
            )
            text = "".join(c.choices[0].delta.content or "" for c in chunks)
            raw = sdk.completions.create(model=model, prompt=USER)
            return whole.choices[0].message.content or "", text, raw.choices[0].text

    whole, streamed, raw = await asyncio.to_thread(talk)
    assert whole == streamed
    assert whole.startswith("support ")
    assert raw.startswith("support ")


async def test_faults_become_the_sdks_error_classes(sdk: AsyncOpenAI, url: str) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await sdk.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": ""}]
        )
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    assert unknown.value.request_id
    with pytest.raises(openai.BadRequestError) as bad:
        await sdk.completions.create(model=BASE, prompt="x", temperature=3)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as unsupported:
        await sdk.chat.completions.create(
            model=BASE,
            messages=[{"role": "user", "content": ""}],
            modalities=["text", "audio"],
        )
    assert (unsupported.value.code, unsupported.value.param) == (
        "unsupported_parameter",
        "modalities",
    )
    async with AsyncOpenAI(base_url=url, api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError):
            await stranger.completions.create(model=BASE, prompt="x")


@pytest.mark.parametrize("stream", [False, True])
async def test_no_engine_is_a_server_error(
    sdk: AsyncOpenAI, engine: FakeEngine, stream: bool
) -> None:
    engine.available = False
    with pytest.raises(openai.InternalServerError) as raised:
        await sdk.completions.create(model=BASE, prompt="x", stream=stream)
    assert raised.value.status_code == 503


async def test_the_sdk_tries_again_when_the_engine_comes_back(
    url: str, key: str, engine: FakeEngine
) -> None:
    engine.available = False

    async def come_back(_: object) -> None:
        engine.available = True

    http = openai.DefaultAsyncHttpxClient(event_hooks={"response": [come_back]})
    async with AsyncOpenAI(base_url=url, api_key=key, max_retries=2, http_client=http) as sdk:
        answer = await sdk.completions.create(model=BASE, prompt="x")
    assert answer.choices[0].text.startswith("base ")
    assert len(engine.requests) == 2


async def test_an_error_in_mid_stream_makes_the_sdk_raise(
    sdk: AsyncOpenAI, engine: FakeEngine
) -> None:
    stream = await sdk.chat.completions.create(
        model=BASE, messages=[{"role": "user", "content": USER}], n=32, stream=True
    )
    await anext(stream)
    await engine.close()
    with pytest.raises(openai.APIError, match="engine"):
        _ = [chunk async for chunk in stream]


async def test_breaking_off_a_stream_frees_the_place(sdk: AsyncOpenAI, engine: FakeEngine) -> None:
    stream = await sdk.chat.completions.create(
        model=BASE, messages=[{"role": "user", "content": USER}], n=32, stream=True
    )
    await anext(stream)
    engine.pause()
    await stream.close()
    await engine.wait_until(running=0)
    assert engine.cancelled == [engine.requests[0].id]
