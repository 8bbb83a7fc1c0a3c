"""`POST /v1/tenants/{tenant}/generate` through the whole app."""

import asyncio
from typing import Any

import httpx
import pytest
from litestar import Litestar

from service.base.description import BaseDescription
from service.database import Database
from service.rendering.renderer import Renderer
from tests.fakes.engine import FakeEngine
from tests.integration.generating import (
    BASE,
    HELLO,
    digest_of,
    error_of,
    events_of,
    over_the_wire,
    publish,
    served,
)

ACME = "/v1/tenants/acme/generate"


@pytest.fixture
def engine() -> FakeEngine:
    """Answers for any revision, stored or not."""
    return FakeEngine()


def ask(**fields: Any) -> dict[str, Any]:
    return {"prompt": "hello", **fields}


async def test_the_newest_adapter_answers(
    acme: httpx.AsyncClient, database: Database, engine: FakeEngine
) -> None:
    await publish(database, "acme", "older")
    model = await publish(database, "acme", "support")
    answer = await acme.post(ACME, json=ask())
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert list(body) == ["id", "tenant", "model", "text", "finish_reason", "usage"]
    assert (body["tenant"], body["model"], body["finish_reason"]) == ("acme", model, "stop")
    assert body["id"].startswith("gen-")
    assert body["text"].startswith("support ")
    assert body["usage"]["completion_tokens"] == 9
    assert answer.headers["x-lorehouse-revision"] == digest_of("acme", "support")
    assert engine.requests[0].sampling.max_tokens == 256


async def test_another_adapter_answers_when_named(
    acme: httpx.AsyncClient, database: Database
) -> None:
    model = await publish(database, "acme", "older")
    await publish(database, "acme", "support")
    rev = digest_of("acme", "older")[:8]
    for name in ["older", model, f"older@{rev}", f"older@{digest_of('acme', 'older')}"]:
        assert (await acme.post(ACME, json=ask(adapter=name))).json()["model"] == model
    assert (await acme.post(ACME, json=ask(adapter=BASE))).json()["model"] == BASE


@pytest.mark.parametrize("form", ["chat", "raw"])
async def test_a_prompt_is_rendered_as_the_adapter_was_trained(
    acme: httpx.AsyncClient,
    database: Database,
    engine: FakeEngine,
    renderer: Renderer,
    form: str,
) -> None:
    await publish(database, "acme", "support", form)
    await acme.post(ACME, json=ask())
    expected = renderer.instruction("hello") if form == "chat" else renderer.raw("hello")
    assert engine.requests[0].prompt == expected


@pytest.mark.parametrize("form", ["chat", "raw"])
async def test_messages_are_always_a_conversation(
    acme: httpx.AsyncClient,
    database: Database,
    engine: FakeEngine,
    renderer: Renderer,
    form: str,
) -> None:
    await publish(database, "acme", "support", form)
    await acme.post(ACME, json={"messages": HELLO})
    assert engine.requests[0].prompt == renderer.instruction("hello")


async def test_the_default_shrinks_to_what_the_context_leaves(
    acme: httpx.AsyncClient,
    database: Database,
    engine: FakeEngine,
    renderer: Renderer,
    base: BaseDescription,
) -> None:
    await publish(database, "acme", "support", "raw")
    prompt = renderer.tokenizer.decode(renderer.raw("word " * 2500)[: base.context_length - 9])
    answer = await acme.post(ACME, json=ask(prompt=prompt))
    assert answer.status_code == 200, answer.text
    [request] = engine.requests
    assert request.sampling.max_tokens == base.context_length - len(request.prompt) < 256


async def test_without_an_adapter_there_is_nothing_to_answer_with(
    acme: httpx.AsyncClient, engine: FakeEngine
) -> None:
    answer = await acme.post(ACME, json=ask())
    assert answer.status_code == 404
    assert error_of(answer)["param"] == "adapter"
    assert engine.requests == []


async def test_unknown_and_foreign_adapters_get_the_same_404(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient, database: Database, engine: FakeEngine
) -> None:
    await publish(database, "acme", "mine")
    foreign = await publish(database, "globex", "support")
    names = [foreign, "support", "nobody", "mine@production", "mine@00000000"]
    answers = [await acme.post(ACME, json=ask(adapter=name)) for name in names]
    assert {answer.status_code for answer in answers} == {404}
    assert error_of(answers[0])["param"] == "adapter"
    pairs = zip(answers, names, strict=True)
    assert len({answer.text.replace(name, "NAME") for answer, name in pairs}) == 1
    assert engine.requests == []


async def test_a_foreign_tenants_path_is_an_unknown_tenants(
    acme: httpx.AsyncClient,
    globex: httpx.AsyncClient,
    admin: httpx.AsyncClient,
    database: Database,
    engine: FakeEngine,
) -> None:
    await publish(database, "globex", "support")
    foreign = await acme.post("/v1/tenants/globex/generate", json=ask())
    unknown = await acme.post("/v1/tenants/nobody/generate", json=ask())
    told = await admin.post("/v1/tenants/nobody/generate", json=ask())
    assert {foreign.status_code, unknown.status_code, told.status_code} == {404}
    assert foreign.text.replace("globex", "nobody") == unknown.text == told.text
    assert error_of(foreign)["param"] == "tenant"
    assert engine.requests == []


async def test_the_admin_key_may_call_any_tenants(
    admin: httpx.AsyncClient, acme: httpx.AsyncClient, database: Database
) -> None:
    model = await publish(database, "acme", "support")
    body = (await admin.post(ACME, json=ask())).json()
    assert (body["tenant"], body["model"]) == ("acme", model)


async def test_a_key_without_the_scope_is_forbidden(
    admin: httpx.AsyncClient, acme: httpx.AsyncClient
) -> None:
    made = await admin.post("/v1/admin/tenants/acme/keys", json={"name": "f", "scopes": ["jobs"]})
    headers = {"authorization": f"Bearer {made.json()['key']}"}
    assert (await acme.post(ACME, json=ask(), headers=headers)).status_code == 403


async def test_a_stream_ends_with_reason_and_usage(
    acme: httpx.AsyncClient, database: Database
) -> None:
    model = await publish(database, "acme", "support")
    whole = (await acme.post(ACME, json=ask(seed=1))).json()
    answer = await acme.post(ACME, json=ask(seed=1, stream=True))
    *pieces, last = events_of(answer)
    assert answer.headers["x-lorehouse-revision"] == digest_of("acme", "support")
    assert all(list(piece) == ["id", "tenant", "model", "text"] for piece in pieces)
    assert {piece["model"] for piece in pieces} == {model}
    assert "".join(piece["text"] for piece in [*pieces, last]) == whole["text"]
    assert (last["finish_reason"], last["usage"]) == ("stop", whole["usage"])


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "prompt", "missing_required_parameter"),
        ({"prompt": "p", "messages": HELLO}, "messages", "invalid_value"),
        ({"prompt": ["p"]}, "prompt", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        (ask(model="m"), "model", "unknown_parameter"),
        (ask(adapter=""), "adapter", "invalid_value"),
        (ask(temperature=-0.5), "temperature", "invalid_value"),
        (ask(max_tokens=0), "max_tokens", "invalid_value"),
        (ask(max_tokens=2048), "max_tokens", "context_length_exceeded"),
        (ask(prompt="word " * 3000), "prompt", "context_length_exceeded"),
        (ask(stop=["a"] * 17), "stop", "invalid_value"),
    ],
)
async def test_bad_fields_are_named(
    acme: httpx.AsyncClient,
    database: Database,
    engine: FakeEngine,
    body: dict[str, Any],
    param: str,
    code: str,
) -> None:
    await publish(database, "acme", "support")
    answer = await acme.post(ACME, json=body)
    assert answer.status_code == 400, answer.text
    error = error_of(answer)
    assert (error["param"], error["code"]) == (param, code)
    assert engine.requests == []


async def test_interleaved_tenants_never_get_each_others_adapter(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient, database: Database
) -> None:
    models = {name: await publish(database, name, f"of-{name}") for name in ("acme", "globex")}
    clients = {"acme": acme, "globex": globex}

    async def check(name: str) -> None:
        body = (await clients[name].post(f"/v1/tenants/{name}/generate", json=ask())).json()
        assert body["text"].startswith(f"of-{name} ")
        assert (body["tenant"], body["model"]) == (name, models[name])

    await asyncio.gather(*(check(name) for _ in range(50) for name in clients))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_frees_its_place(
    app: Litestar,
    acme: httpx.AsyncClient,
    database: Database,
    engine: FakeEngine,
    stream: bool,
) -> None:
    await publish(database, "acme", "support")
    engine.pause()
    async with served(app) as url, over_the_wire(acme, url) as http:
        asking = asyncio.create_task(http.post(ACME, json=ask(stream=stream)))
        await engine.wait_until(running=1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await engine.wait_until(running=0)
    assert engine.cancelled == [engine.requests[0].id]
