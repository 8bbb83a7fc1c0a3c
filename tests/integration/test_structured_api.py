"""`response_format` and `tools` over HTTP, with an engine that says what it is told to."""

import json
from typing import Any

import httpx
import pytest
from openai import BadRequestError, pydantic_function_tool
from pydantic import BaseModel

from service.errors import BadRequest
from service.serving.engine import GenerationRequest
from tests.fakes import engine as fake
from tests.fakes.engine import FakeEngine
from tests.fakes.words import default_answer
from tests.integration.generating import BASE, CHAT, HELLO, error_of, events_of, sdk_of, served

pytestmark = pytest.mark.usefixtures("acme")

CALLS, TWO_CALLS = 1, 2
"""Seeds that ask for answers with calls."""
CALL = '<tool_call>\n{"name": "Weather", "arguments": {"city": "Bern"}}\n</tool_call>'
SAID = {CALLS: f"Let me see.\n{CALL}", TWO_CALLS: f"{CALL}\n{CALL}"}


class Weather(BaseModel):
    """Asks how the weather is."""

    city: str


class Forecast(BaseModel):
    """How it will be."""

    city: str
    degrees: int


TOOL: Any = pydantic_function_tool(Weather)
LOOSE = {"type": "function", "function": {"name": "Weather"}}


@pytest.fixture
def engine() -> FakeEngine:
    """Says by the seed what is above, and else what the fake engine always says."""
    return FakeEngine(answer=answer_of)


def answer_of(request: GenerationRequest, index: int) -> str:
    return SAID.get(request.sampling.seed or 0) or default_answer(request, index)


def ask(**fields: Any) -> dict[str, Any]:
    return {"model": BASE, "messages": HELLO, **fields}


async def choice(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await client.post(CHAT, json=ask(**fields))
    assert answer.status_code == 200, answer.text
    [choice] = answer.json()["choices"]
    found: dict[str, Any] = choice
    return found


async def test_a_call_is_read_from_the_text(acme: httpx.AsyncClient) -> None:
    made = await choice(acme, tools=[LOOSE], seed=CALLS)
    message = made["message"]
    [call] = message["tool_calls"]
    assert call["id"].startswith("call_")
    assert call["function"] == {"name": "Weather", "arguments": '{"city": "Bern"}'}
    assert (made["finish_reason"], message["content"]) == ("tool_calls", "Let me see.")


async def test_calls_alone_have_no_content(acme: httpx.AsyncClient) -> None:
    made = await choice(acme, tools=[LOOSE], seed=TWO_CALLS)
    assert made["message"]["content"] is None
    ids = {call["id"] for call in made["message"]["tool_calls"]}
    assert len(ids) == 2


@pytest.mark.parametrize("fields", [{}, {"tools": [LOOSE], "tool_choice": "none"}])
async def test_whoever_may_call_nothing_says_text(
    acme: httpx.AsyncClient, fields: dict[str, Any]
) -> None:
    made = await choice(acme, seed=CALLS, **fields)
    assert made["message"] == {"role": "assistant", "content": SAID[CALLS], "refusal": None}
    assert made["finish_reason"] == "stop"


async def test_a_call_that_is_cut_is_no_whole_one(acme: httpx.AsyncClient) -> None:
    made = await choice(acme, tools=[LOOSE], seed=CALLS, max_tokens=8)
    assert made["finish_reason"] == "length"
    [call] = made["message"]["tool_calls"]
    assert call["function"]["arguments"] == '{"city":'


async def test_a_stream_has_the_call_piece_by_piece(acme: httpx.AsyncClient) -> None:
    asked = ask(tools=[LOOSE], seed=TWO_CALLS, stream=True)
    chunks = [event["choices"][0] for event in events_of(await acme.post(CHAT, json=asked))]
    assert chunks[0]["delta"] == {"role": "assistant", "content": None, "refusal": None}
    assert chunks[-1] == {
        "index": 0, "delta": {}, "logprobs": None, "finish_reason": "tool_calls"
    }  # fmt: skip
    deltas = [call for chunk in chunks[1:-1] for call in chunk["delta"]["tool_calls"]]
    heads = [delta for delta in deltas if "id" in delta]
    assert [head["index"] for head in heads] == [0, 1]
    for head in heads:
        assert (head["type"], head["function"]) == (
            "function",
            {"name": "Weather", "arguments": ""},
        )
        rest = [delta for delta in deltas if delta["index"] == head["index"] and delta != head]
        assert len(rest) > 1
        assert "".join(one["function"]["arguments"] for one in rest) == '{"city": "Bern"}'
        assert all(one.keys() == {"index", "function"} for one in rest)


async def test_the_prompt_shows_the_functions_and_what_was_called(
    acme: httpx.AsyncClient, engine: FakeEngine, renderer: Any
) -> None:
    message = (await choice(acme, tools=[TOOL], seed=CALLS))["message"]
    [call] = message["tool_calls"]
    answer = {"role": "tool", "tool_call_id": call["id"], "content": "sunny"}
    await choice(acme, tools=[TOOL], messages=[*HELLO, message, answer])
    first, second = (
        renderer.tokenizer.decode(request.prompt, skip_special_tokens=False)
        for request in engine.requests
    )
    assert '{"type": "function", "function": {"name": "Weather", "description":' in first
    assert "strict" not in first
    assert second.startswith(first)
    assert CALL in second
    assert "<|im_start|>tool\nsunny<|im_end|>" in second


async def test_a_schema_reaches_the_engine_and_holds(
    acme: httpx.AsyncClient, engine: FakeEngine
) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    made = await choice(acme, response_format=wanted)
    assert json.loads(made["message"]["content"]).keys() == {"n"}
    made = await choice(acme, response_format={"type": "json_object"})
    assert isinstance(json.loads(made["message"]["content"]), dict)
    assert (await choice(acme, response_format={"type": "text"}))["finish_reason"] == "stop"
    assert [bool(request.sampling.structure) for request in engine.requests] == [True, True, False]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            "missing_required_parameter",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "it", "schema": {"not": {}}},
                }
            },
            "response_format.json_schema.schema",
            "invalid_value",
        ),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
        ({"tools": [LOOSE] * 129}, "tools", "invalid_value"),
        ({"tools": [LOOSE], "tool_choice": "any"}, "tool_choice", "invalid_value"),
        (
            {"tools": [{"type": "custom", "custom": {"name": "x"}}]},
            "tools[0].type",
            "unsupported_parameter",
        ),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "c"}]}]},
            "messages[0].tool_calls[0].function",
            "missing_required_parameter",
        ),
    ],
)
async def test_what_is_wrong_is_named(
    acme: httpx.AsyncClient, engine: FakeEngine, fields: dict[str, Any], param: str, code: str
) -> None:
    answer = await acme.post(CHAT, json=ask(**fields, stream=True))
    assert answer.status_code == 400, answer.text
    error = error_of(answer)
    assert (error["param"], error["code"]) == (param, code)
    assert engine.requests == []


@pytest.mark.parametrize(
    "schema", [{"type": "strin"}, {"type": "string", "minLength": 5, "maxLength": 2}]
)
async def test_a_refused_schema_is_explained_without_our_grammar(
    acme: httpx.AsyncClient, schema: dict[str, Any]
) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    error = error_of(await acme.post(CHAT, json=ask(response_format=wanted)))
    assert "guidance" not in error["message"]
    assert "\n" not in error["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_structure_that_the_engine_cannot_keep_to_is_named_by_its_field(
    acme: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    def refuse(grammar: str | None, wanted: str) -> str:
        raise BadRequest("too complex", param="structure")

    monkeypatch.setattr(fake, "structured", refuse)
    for fields, param in (
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tools"),
    ):
        answer = await acme.post(CHAT, json=ask(**fields, stream=stream))
        assert (answer.status_code, error_of(answer)["param"]) == (400, param)


async def test_the_sdk_parses_documents_and_calls(app: Any, acme: httpx.AsyncClient) -> None:
    async with served(app) as url, sdk_of(acme, url) as sdk:
        say: Any = {"model": BASE, "messages": HELLO}
        document = await sdk.chat.completions.parse(**say, response_format=Forecast)
        assert isinstance(document.choices[0].message.parsed, Forecast)
        called = await sdk.chat.completions.parse(**say, tools=[TOOL], seed=CALLS)
        [call] = called.choices[0].message.tool_calls or ()
        assert call.function.parsed_arguments == Weather(city="Bern")
        back = [*HELLO, called.choices[0].message.model_dump()]
        back.append({"role": "tool", "tool_call_id": call.id, "content": "sunny"})
        again: Any = {**say, "messages": back}
        async with sdk.chat.completions.stream(**again, tools=[TOOL], seed=TWO_CALLS) as stream:
            final = await stream.get_final_completion()
        assert [
            one.function.parsed_arguments for one in final.choices[0].message.tool_calls or ()
        ] == [Weather(city="Bern")] * 2
        with pytest.raises(BadRequestError):
            await sdk.chat.completions.create(**say, tool_choice="required")
