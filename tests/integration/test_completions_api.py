"""`POST /v1/completions` through the whole app."""

import asyncio
from typing import Any

import httpx
import pytest
from litestar import Litestar

from service.database import Database
from service.rendering.renderer import Renderer
from tests.fakes.engine import FakeEngine
from tests.integration.generating import (
    BASE,
    COMPLETIONS,
    digest_of,
    error_of,
    events_of,
    over_the_wire,
    publish,
    served,
)


@pytest.fixture
def engine() -> FakeEngine:
    """Answers for any revision, stored or not; four sequences at once."""
    return FakeEngine(max_batch=4)


def ask(**fields: Any) -> dict[str, Any]:
    return {"model": BASE, "prompt": "once upon", **fields}


async def test_a_completion_has_openais_shape(acme: httpx.AsyncClient) -> None:
    body = (await acme.post(COMPLETIONS, json=ask())).json()
    assert body["id"].startswith("cmpl-")
    assert body["object"] == "text_completion"
    assert body["model"] == BASE
    [choice] = body["choices"]
    assert choice["text"].startswith("base ")
    assert (choice["index"], choice["logprobs"], choice["finish_reason"]) == (0, None, "stop")
    assert body["usage"]["completion_tokens"] == 9


async def test_sixteen_tokens_are_the_default(acme: httpx.AsyncClient, engine: FakeEngine) -> None:
    await acme.post(COMPLETIONS, json=ask())
    assert engine.requests[0].sampling.max_tokens == 16


@pytest.mark.parametrize("form", ["chat", "raw"])
async def test_the_prompt_is_raw_whatever_the_adapters_format(
    acme: httpx.AsyncClient,
    database: Database,
    engine: FakeEngine,
    renderer: Renderer,
    form: str,
) -> None:
    model = await publish(database, "acme", "support", form)
    answer = await acme.post(COMPLETIONS, json=ask(model=model))
    assert answer.json()["model"] == model
    assert answer.headers["x-lorehouse-revision"] == digest_of("acme", "support")
    assert engine.requests[0].prompt == renderer.raw("once upon")


async def test_token_ids_are_taken_as_they_are(acme: httpx.AsyncClient, engine: FakeEngine) -> None:
    await acme.post(COMPLETIONS, json=ask(prompt=[5, 6, 7]))
    await acme.post(COMPLETIONS, json=ask(prompt=[[5, 6], [7]]))
    assert [request.prompt for request in engine.requests] == [[5, 6, 7], [5, 6], [7]]


async def test_many_prompts_are_numbered_through(
    acme: httpx.AsyncClient, engine: FakeEngine, renderer: Renderer
) -> None:
    prompts = [f"prompt number {i}" for i in range(7)]
    body = (await acme.post(COMPLETIONS, json=ask(prompt=prompts, n=2, seed=1))).json()
    assert [choice["index"] for choice in body["choices"]] == list(range(14))
    assert body["usage"]["completion_tokens"] == 14 * 9
    assert body["usage"]["prompt_tokens"] == sum(len(renderer.raw(p)) for p in prompts)
    assert len({request.id for request in engine.requests}) == 7
    for place, prompt in enumerate(prompts):
        alone = (await acme.post(COMPLETIONS, json=ask(prompt=prompt, n=2, seed=1))).json()
        texts = [choice["text"] for choice in alone["choices"]]
        assert [c["text"] for c in body["choices"][2 * place : 2 * place + 2]] == texts


async def test_one_request_does_not_fill_the_queue(
    app: Litestar, acme: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.pause()
    asking = asyncio.create_task(acme.post(COMPLETIONS, json=ask(prompt=["p"] * 100)))
    await engine.wait_until(running=4, waiting=28)
    engine.resume()
    assert len((await asking).json()["choices"]) == 100


async def test_hanging_up_frees_the_places_of_all_prompts(
    app: Litestar, acme: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.pause()
    async with served(app) as url, over_the_wire(acme, url) as http:
        asking = asyncio.create_task(http.post(COMPLETIONS, json=ask(prompt=["p"] * 3)))
        await engine.wait_until(running=3)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await engine.wait_until(running=0)
    assert len(engine.cancelled) == 3


async def test_logprobs_have_the_older_shape(acme: httpx.AsyncClient) -> None:
    [choice] = (await acme.post(COMPLETIONS, json=ask(logprobs=2))).json()["choices"]
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]) == choice["text"]
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert choice["text"][offset:].startswith(token)
    for token, value, top in zip(
        logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
    ):
        assert top[token] == value
        assert len(top) == 2


@pytest.mark.parametrize("logprobs", [None, 1])
async def test_a_stream_says_the_same_piece_by_piece(
    acme: httpx.AsyncClient, logprobs: int | None
) -> None:
    asked = ask(prompt=["a", "b"], seed=3, logprobs=logprobs)
    whole = (await acme.post(COMPLETIONS, json=asked)).json()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = events_of(await acme.post(COMPLETIONS, json=asked | options))
    for expected in whole["choices"]:
        parts = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == expected["index"]]
        assert "".join(part["text"] for part in parts) == expected["text"]
        assert [p["finish_reason"] for p in parts] == [None] * (len(parts) - 1) + ["stop"]
        if logprobs:
            streamed = [part["logprobs"] for part in parts if part["logprobs"]]
            offsets = [offset for each in streamed for offset in each["text_offset"]]
            assert offsets == expected["logprobs"]["text_offset"]
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in chunks)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompt": None}, "prompt", "invalid_value"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": [[]]}, "prompt", "invalid_value"),
        ({"prompt": ["a", 1]}, "prompt", "invalid_value"),
        ({"prompt": [4096]}, "prompt", "invalid_value"),
        ({"prompt": [-1]}, "prompt[0]", "invalid_value"),
        ({"prompt": "word " * 3000}, "prompt", "context_length_exceeded"),
        ({"prompt": ["a", "word " * 3000]}, "prompt", "context_length_exceeded"),
        ({"max_tokens": 2048}, "max_tokens", "context_length_exceeded"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"suffix": "."}, "suffix", "unsupported_parameter"),
        ({"echo": True}, "echo", "unsupported_parameter"),
        ({"best_of": 2}, "best_of", "unsupported_parameter"),
        ({"logprobs": 6}, "logprobs", "invalid_value"),
        ({"temperature": -1}, "temperature", "invalid_value"),
        ({"messages": []}, "messages", "unknown_parameter"),
        ({"top_logprobs": 1}, "top_logprobs", "unknown_parameter"),
    ],
)
async def test_bad_fields_are_named(
    acme: httpx.AsyncClient,
    engine: FakeEngine,
    fields: dict[str, Any],
    param: str,
    code: str,
) -> None:
    answer = await acme.post(COMPLETIONS, json=ask(**fields))
    assert answer.status_code == 400, answer.text
    error = error_of(answer)
    assert (error["param"], error["code"]) == (param, code)
    assert engine.requests == []


async def test_an_empty_text_is_a_prompt_only_where_a_bos_begins_it(
    acme: httpx.AsyncClient, renderer: Renderer
) -> None:
    answer = await acme.post(COMPLETIONS, json=ask(prompt=""))
    assert answer.status_code == (200 if renderer.raw("") else 400)


async def test_unknown_and_foreign_models_get_the_same_404(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient, database: Database, engine: FakeEngine
) -> None:
    foreign = await publish(database, "globex", "support")
    answers = [await acme.post(COMPLETIONS, json=ask(model=m)) for m in (foreign, "nobody")]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert answers[0].text.replace(foreign, "nobody") == answers[1].text
    assert engine.requests == []


async def test_an_engine_that_fails_one_prompt_fails_the_request(
    acme: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.pause()
    asking = asyncio.create_task(acme.post(COMPLETIONS, json=ask(prompt=["a", "b", "c"])))
    await engine.wait_until(running=3)
    await engine.close()
    answer = await asking
    assert answer.status_code == 503
    assert error_of(answer)["code"] == "engine_unavailable"
    await engine.wait_until(running=0)
