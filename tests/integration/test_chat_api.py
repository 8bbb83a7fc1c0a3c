"""`POST /v1/chat/completions` through the whole app."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from litestar import Litestar

from service.database import Database
from service.serving.engine import GenerationRequest
from tests.fakes.engine import FakeEngine
from tests.fakes.words import default_answer
from tests.integration.generating import (
    BASE,
    CHAT,
    HELLO,
    digest_of,
    error_of,
    events_of,
    over_the_wire,
    publish,
    served,
)

LONG = 2000
"""The seed that asks for an answer of so many words."""


@pytest.fixture
def engine() -> FakeEngine:
    """Says what the fake engine always says, or a very long answer if asked for one."""
    return FakeEngine(answer=answer_of)


def answer_of(request: GenerationRequest, index: int) -> str:
    return "word " * 2000 if request.sampling.seed == LONG else default_answer(request, index)


def ask(**fields: Any) -> dict[str, Any]:
    return {"model": BASE, "messages": HELLO, **fields}


async def test_the_base_answers_under_its_own_name(acme: httpx.AsyncClient) -> None:
    answer = await acme.post(CHAT, json=ask())
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["model"] == BASE
    [choice] = body["choices"]
    assert choice["message"]["content"].startswith("base ")
    assert choice["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == 9
    assert body["system_fingerprint"].startswith("fp_")
    assert "x-lorehouse-revision" not in answer.headers


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_names_the_exact_revision(
    acme: httpx.AsyncClient, database: Database, engine: FakeEngine, stream: bool
) -> None:
    model = await publish(database, "acme", "support")
    answer = await acme.post(CHAT, json=ask(model="support", stream=stream))
    body = events_of(answer)[0] if stream else answer.json()
    assert body["model"] == model
    assert answer.headers["x-lorehouse-revision"] == digest_of("acme", "support")
    [request] = engine.requests
    assert request.revision is not None
    assert request.revision.tenant == "acme"
    assert request.revision.digest == digest_of("acme", "support")


async def test_the_fingerprint_tells_revisions_apart(
    acme: httpx.AsyncClient, database: Database
) -> None:
    prints = []
    for model in [BASE, await publish(database, "acme", "one"), "one", BASE]:
        answer = await acme.post(CHAT, json=ask(model=model))
        prints.append(answer.json()["system_fingerprint"])
    assert prints[0] == prints[3] != prints[1] == prints[2]


async def test_the_prompt_is_the_bases_chat_template(
    acme: httpx.AsyncClient, engine: FakeEngine, renderer: Any
) -> None:
    await acme.post(CHAT, json=ask())
    text = renderer.tokenizer.decode(engine.requests[0].prompt, skip_special_tokens=False)
    assert text.count("<|im_start|>") == 2
    assert "hello" in text


async def test_the_default_fills_the_context(
    acme: httpx.AsyncClient, engine: FakeEngine, base: Any
) -> None:
    used = (await acme.post(CHAT, json=ask())).json()["usage"]["prompt_tokens"]
    assert engine.requests[0].sampling.max_tokens == base.context_length - used


async def test_choices_are_numbered_and_all_counted(acme: httpx.AsyncClient) -> None:
    body = (await acme.post(CHAT, json=ask(n=3, seed=1))).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert len({choice["message"]["content"] for choice in body["choices"]}) == 3
    assert body["usage"]["completion_tokens"] == 27


async def test_a_seed_repeats_an_answer(acme: httpx.AsyncClient) -> None:
    first, second = [(await acme.post(CHAT, json=ask(seed=5))).json() for _ in range(2)]
    assert first["choices"] == second["choices"]
    assert first["id"] != second["id"]


async def test_a_length_limit_is_told(acme: httpx.AsyncClient) -> None:
    body = (await acme.post(CHAT, json=ask(max_completion_tokens=2))).json()
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 2


async def test_logprobs_come_when_asked_for(acme: httpx.AsyncClient) -> None:
    body = (await acme.post(CHAT, json=ask(logprobs=True, top_logprobs=2))).json()
    first = body["choices"][0]["logprobs"]["content"][0]
    assert first["token"] == "base"
    assert bytes(first["bytes"]).decode() == "base"
    assert len(first["top_logprobs"]) == 2
    plain = (await acme.post(CHAT, json=ask())).json()
    assert plain["choices"][0]["logprobs"] is None


async def test_a_stream_says_the_same_piece_by_piece(acme: httpx.AsyncClient) -> None:
    asked = ask(seed=3, n=2)
    whole = (await acme.post(CHAT, json=asked)).json()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = events_of(await acme.post(CHAT, json=asked | options))
    texts: dict[int, str] = {0: "", 1: ""}
    for chunk in chunks:
        assert chunk["object"] == "chat.completion.chunk"
        assert chunk["usage"] is None
        [choice] = chunk["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == {c["index"]: c["message"]["content"] for c in whole["choices"]}
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    assert {chunk["id"] for chunk in [*chunks, last]} == {last["id"]}


async def test_without_include_usage_there_is_none(acme: httpx.AsyncClient) -> None:
    chunks = events_of(await acme.post(CHAT, json=ask(stream=True)))
    assert all("usage" not in chunk for chunk in chunks)
    assert chunks[-1]["choices"][0] == {
        "index": 0,
        "delta": {},
        "logprobs": None,
        "finish_reason": "stop",
    }


async def test_unknown_and_foreign_models_get_the_same_404(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient, database: Database, engine: FakeEngine
) -> None:
    foreign = await publish(database, "globex", "support")
    assert (await globex.post(CHAT, json=ask(model=foreign))).status_code == 200
    engine.requests.clear()
    bodies = []
    for model in [foreign, "support", "gpt-4o", "support@production", "a/b", "\x00"]:
        answer = await acme.post(CHAT, json=ask(model=model))
        assert answer.status_code == 404
        error = error_of(answer)
        assert (error["param"], error["code"]) == ("model", "model_not_found")
        bodies.append(answer.text.replace(json.dumps(model)[1:-1], "MODEL"))
    assert len(set(bodies)) == 1
    assert engine.requests == []


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": -1}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"n": 129}, "n", "invalid_value"),
        ({"n": 33}, "n", "invalid_value"),
        ({"colour": "red"}, "colour", "unknown_parameter"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": "x", "weight": 1}]},
            "messages[0].weight",
            "unknown_parameter",
        ),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "missing_required_parameter"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
        ({"response_format": {"type": "yaml"}}, "response_format.type", "invalid_value"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "invalid_value"),
        ({"max_tokens": 2048}, "max_tokens", "context_length_exceeded"),
        ({"max_completion_tokens": 2048}, "max_completion_tokens", "context_length_exceeded"),
        (
            {"messages": [{"role": "user", "content": "word " * 3000}]},
            "messages",
            "context_length_exceeded",
        ),
        ({"messages": HELLO * 3000}, "messages", "context_length_exceeded"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
        ({"stop": [""]}, "stop[0]", "invalid_value"),
        ({"top_k": -2}, "top_k", "invalid_value"),
        ({"min_p": 2}, "min_p", "invalid_value"),
        ({"presence_penalty": 3}, "presence_penalty", "invalid_value"),
        ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
        ({"logit_bias": {"hello": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"5": 101}}, "logit_bias[...]", "invalid_value"),
        ({"logit_bias": {"4096": 1}}, "logit_bias", "invalid_value"),
        ({"stop_token_ids": [4096]}, "stop_token_ids", "invalid_value"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]", "invalid_value"),
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens", "invalid_value"),
    ],
)
async def test_bad_fields_are_named(
    acme: httpx.AsyncClient,
    engine: FakeEngine,
    fields: dict[str, Any],
    param: str,
    code: str,
) -> None:
    answer = await acme.post(CHAT, json=ask(**fields))
    assert answer.status_code == 400, answer.text
    error = error_of(answer)
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error"
    assert engine.requests == []


@pytest.mark.parametrize(
    "fields", [{"n": 33}, {"max_tokens": 2048}, {"model": "nobody"}, {"tools": [{}]}, {"x": 1}]
)
async def test_faults_found_before_the_first_word_are_no_streams(
    acme: httpx.AsyncClient, fields: dict[str, Any]
) -> None:
    answer = await acme.post(CHAT, json=ask(**fields, stream=True))
    assert answer.status_code in {400, 404}
    assert answer.headers["content-type"].startswith("application/json")
    error_of(answer)


@pytest.mark.parametrize("field", ["tools", "logit_bias", "prompt_cache_options", "messages"])
async def test_nesting_without_end_is_400(acme: httpx.AsyncClient, field: str) -> None:
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    content = b'{"model":"m","messages":[{"role":"user","content":"x"}],"%s":%s}'
    headers = {"content-type": "application/json"}
    answer = await acme.post(CHAT, content=content % (field.encode(), deep), headers=headers)
    assert answer.status_code == 400, answer.text
    error_of(answer)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b'{"a":"\\ud800"}']
)
async def test_a_body_that_is_no_json_object_is_400(
    acme: httpx.AsyncClient, content: bytes
) -> None:
    headers = {"content-type": "application/json"}
    answer = await acme.post(CHAT, content=content, headers=headers)
    assert answer.status_code == 400, answer.text
    error_of(answer)


async def test_the_admin_key_has_no_tenant_here(admin: httpx.AsyncClient) -> None:
    answer = await admin.post(CHAT, json=ask())
    assert answer.status_code == 403
    error_of(answer)


async def test_a_key_without_the_scope_is_forbidden(
    admin: httpx.AsyncClient, acme: httpx.AsyncClient, engine: FakeEngine
) -> None:
    made = await admin.post("/v1/admin/tenants/acme/keys", json={"name": "f", "scopes": ["files"]})
    headers = {"authorization": f"Bearer {made.json()['key']}"}
    answer = await acme.post(CHAT, json=ask(), headers=headers)
    assert answer.status_code == 403
    assert engine.requests == []


@pytest.mark.parametrize("stream", [False, True])
async def test_no_engine_is_503_before_anything_was_said(
    acme: httpx.AsyncClient, engine: FakeEngine, stream: bool
) -> None:
    engine.available = False
    answer = await acme.post(CHAT, json=ask(stream=stream))
    assert answer.status_code == 503
    assert error_of(answer)["code"] == "engine_unavailable"
    assert answer.headers["retry-after"] == "1"


async def test_an_engine_that_dies_in_mid_stream_ends_it_with_an_error(
    app: Litestar, acme: httpx.AsyncClient, engine: FakeEngine
) -> None:
    async with _long_stream(app, acme, engine) as lines:
        await engine.close()
        said = [line async for line in lines if line]
    assert json.loads(said[-1].removeprefix("data: "))["error"]["code"] == "engine_unavailable"
    assert "data: [DONE]" not in said


async def test_words_are_sent_as_they_are_made(
    app: Litestar, acme: httpx.AsyncClient, engine: FakeEngine
) -> None:
    async with _long_stream(app, acme, engine) as lines:
        # The first word is here, while the engine holds back most of the others.
        engine.resume()
        said = [line async for line in lines if line]
    assert said[-1] == "data: [DONE]"


async def test_a_client_that_hangs_up_in_mid_stream_frees_its_place(
    app: Litestar, acme: httpx.AsyncClient, engine: FakeEngine
) -> None:
    async with served(app) as url:
        async with _first_line(acme, url, engine):
            pass
        await engine.wait_until(running=0)
    assert engine.cancelled == [engine.requests[0].id]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_before_the_first_word_frees_its_place(
    app: Litestar, acme: httpx.AsyncClient, engine: FakeEngine, stream: bool
) -> None:
    engine.pause()
    async with served(app) as url, over_the_wire(acme, url) as http:
        asking = asyncio.create_task(http.post(CHAT, json=ask(stream=stream)))
        await engine.wait_until(running=1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await engine.wait_until(running=0)
        engine.resume()
        assert (await http.post(CHAT, json=ask())).status_code == 200
    assert engine.cancelled == [engine.requests[0].id]


@asynccontextmanager
async def _long_stream(
    app: Litestar, client: httpx.AsyncClient, engine: FakeEngine
) -> AsyncIterator[AsyncIterator[str]]:
    async with served(app) as url, _first_line(client, url, engine) as lines:
        yield lines


@asynccontextmanager
async def _first_line(
    client: httpx.AsyncClient, url: str, engine: FakeEngine
) -> AsyncIterator[AsyncIterator[str]]:
    """Read the first event of an answer of two thousand words, then pause the engine."""
    asked = ask(stream=True, seed=LONG)
    async with over_the_wire(client, url) as http, http.stream("POST", CHAT, json=asked) as answer:
        lines = answer.aiter_lines()
        assert '"role":"assistant"' in await anext(lines)
        engine.pause()
        await engine.wait_until(running=1)
        yield lines
