"""`litellm`, whose provider `openai` reaches any server that speaks as OpenAI does."""

import asyncio
import os
from pathlib import Path
from typing import Any

import litellm
import page
import pytest
from asking import repeatedly
from lessons import (
    ADA,
    ASKED,
    QUESTION,
    SECRET,
    TOOL,
    WEATHER,
    WEATHER_ANSWER,
    WHO,
    GetWeather,
    Person,
)
from litellm import exceptions

# It serialises its own messages with such warnings, OpenAI's answers as well as ours.
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")

litellm.suppress_debug_info = True


@pytest.fixture
def name(model: str) -> str:
    return f"openai/{model}"


def test_an_answer(name: str, model: str) -> None:
    answer = litellm.completion(name, QUESTION, temperature=0, n=2, logprobs=True, top_logprobs=2)
    assert answer.model == model
    assert [choice.message.content for choice in answer.choices] == [SECRET, SECRET]
    assert answer.choices[0].finish_reason == "stop"
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2
    assert answer.usage.total_tokens > answer.usage.prompt_tokens > 0


def test_asynchronously(name: str) -> None:
    async def ask() -> list[str]:
        asked = [litellm.acompletion(name, QUESTION, temperature=0) for _ in range(4)]
        return [answer.choices[0].message.content for answer in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == [SECRET] * 4


def test_a_stream_with_usage(name: str) -> None:
    chunks = list(
        litellm.completion(
            name, QUESTION, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == SECRET
    assert chunks[-1].usage.completion_tokens > 0
    whole = litellm.stream_chunk_builder(chunks, messages=QUESTION)
    assert whole.choices[0].message.content == SECRET


def test_completions(model: str) -> None:
    name = f"text-completion-openai/{model}"
    answer = litellm.text_completion(model=name, prompt="Say", max_tokens=4)
    assert answer.choices[0].text
    assert answer.choices[0].finish_reason in {"length", "stop"}


def test_an_answer_by_a_schema(name: str) -> None:
    answer = litellm.completion(name, WHO, temperature=0, response_format=Person)
    assert Person.model_validate_json(answer.choices[0].message.content) == ADA


def test_a_function_is_called_and_answered(name: str) -> None:
    first = litellm.completion(name, ASKED, temperature=0, tools=[TOOL], tool_choice="auto")
    [call] = first.choices[0].message.tool_calls
    assert first.choices[0].finish_reason == "tool_calls"
    assert GetWeather.model_validate_json(call.function.arguments).city == "Paris"
    told = {"role": "tool", "tool_call_id": call.id, "content": WEATHER}
    turns = [*ASKED, first.choices[0].message, told]
    last = litellm.completion(name, turns, temperature=0, tools=[TOOL])
    assert last.choices[0].message.content == WEATHER_ANSWER


def test_a_call_is_streamed(name: str) -> None:
    chunks = list(litellm.completion(name, ASKED, temperature=0, tools=[TOOL], stream=True))
    [call] = litellm.stream_chunk_builder(chunks, messages=ASKED).choices[0].message.tool_calls
    assert call.function.name == "GetWeather"
    assert GetWeather.model_validate_json(call.function.arguments).city == "Paris"


def test_errors_have_their_classes(name: str, limited_key: str) -> None:
    def ask(**fields: Any) -> None:
        litellm.completion(**{"model": name, "messages": QUESTION, "max_retries": 0, **fields})

    with pytest.raises(exceptions.BadRequestError, match="temperature"):
        ask(temperature=3)
    with pytest.raises(exceptions.ContextWindowExceededError):
        ask(messages=[{"role": "user", "content": "word " * 4000}])
    with pytest.raises(exceptions.NotFoundError):
        ask(model="openai/gpt-4o")
    with pytest.raises(exceptions.AuthenticationError):
        ask(api_key="lh-wrong")
    with pytest.raises(exceptions.RateLimitError):
        repeatedly(lambda: ask(model="openai/lorehouse-tiny", api_key=limited_key, max_tokens=1))


def test_files_and_a_job(rows: Path) -> None:
    at = {
        "custom_llm_provider": "openai",
        "api_base": os.environ["OPENAI_BASE_URL"],
        "api_key": os.environ["OPENAI_API_KEY"],
    }
    with rows.open("rb") as stream:
        file = litellm.create_file(file=stream, purpose="fine-tune", **at)
    assert litellm.file_retrieve(file_id=file.id, **at).bytes == rows.stat().st_size
    assert litellm.file_content(file_id=file.id, **at).content == rows.read_bytes()
    assert file.id in {listed.id for listed in litellm.file_list(**at)}
    job = litellm.create_fine_tuning_job(
        model="lorehouse-tiny", training_file=file.id, hyperparameters={"n_epochs": 50}, **at
    )
    assert job.id in {listed.id for listed in litellm.list_fine_tuning_jobs(limit=5, **at)}
    litellm.cancel_fine_tuning_job(fine_tuning_job_id=job.id, **at)
    assert litellm.retrieve_fine_tuning_job(fine_tuning_job_id=job.id, **at).id == job.id


def test_models_are_discovered(model: str) -> None:
    found = litellm.get_valid_models(
        check_provider_endpoint=True,
        custom_llm_provider="openai",
        api_key=os.environ["OPENAI_API_KEY"],
        api_base=os.environ["OPENAI_BASE_URL"],
    )
    assert {"lorehouse-tiny", model} <= set(found)


def test_the_page_is_true(capsys: pytest.CaptureFixture[str]) -> None:
    page.run("litellm")
    assert capsys.readouterr().out
