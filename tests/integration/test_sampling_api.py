"""What is asked for on the wire is what tokens are picked by, on each generation endpoint."""

from typing import Any

import httpx
import pytest

from service.database import Database
from service.serving.engine import Sampling
from tests.fakes.engine import FakeEngine
from tests.fakes.words import END
from tests.integration.generating import (
    BASE,
    CHAT,
    COMPLETIONS,
    HELLO,
    error_of,
    publish,
    sdk_of,
    served,
)

GENERATE = "/v1/tenants/acme/generate"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"model": BASE, "messages": HELLO},
    COMPLETIONS: {"model": BASE, "prompt": "once upon"},
    GENERATE: {"adapter": "support", "prompt": "hello"},
}
OPENAIS = {"frequency_penalty": 0.5, "presence_penalty": -0.5, "logit_bias": {"5": -100, "6": 2}}
VLLMS = {
    "top_k": 40,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "stop_token_ids": [7, 8],
    "min_tokens": 2,
    "ignore_eos": True,
}
ASKED = Sampling(
    max_tokens=9,
    seed=1,
    frequency_penalty=0.5,
    presence_penalty=-0.5,
    logit_bias={5: -100.0, 6: 2.0},
    top_k=40,
    min_p=0.1,
    repetition_penalty=1.1,
    stop_token_ids=(7, 8),
    min_tokens=2,
    ignore_eos=True,
)


@pytest.fixture
def engine() -> FakeEngine:
    """Answers for any revision, stored or not."""
    return FakeEngine()


@pytest.fixture(autouse=True)
async def model(acme: httpx.AsyncClient, database: Database) -> str:
    """A model of the tenant's."""
    return await publish(database, "acme", "support")


@pytest.mark.parametrize("path", BODIES)
async def test_every_field_reaches_the_engine_and_so_does_the_tenant(
    acme: httpx.AsyncClient, engine: FakeEngine, path: str
) -> None:
    wishes = {"max_tokens": 9, "seed": 1, **OPENAIS, **VLLMS}
    answer = await acme.post(path, json=BODIES[path] | wishes)
    assert answer.status_code == 200, answer.text
    [request] = engine.requests
    assert (request.sampling, request.tenant) == (ASKED, "acme")


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("wish", [{"logit_bias": {"4096": 1}}, {"stop_token_ids": [1, 2**31 - 1]}])
async def test_tokens_that_the_base_does_not_know_are_refused(
    acme: httpx.AsyncClient, engine: FakeEngine, path: str, wish: dict[str, Any]
) -> None:
    answer = await acme.post(path, json=BODIES[path] | wish)
    assert answer.status_code == 400
    [field] = wish
    assert error_of(answer)["param"] == field
    assert str([*wish[field]][-1]) in error_of(answer)["message"]
    assert engine.requests == []


async def test_who_ignores_the_end_gets_all_the_tokens(acme: httpx.AsyncClient) -> None:
    wishes = {"ignore_eos": True, "max_tokens": 30}
    body = (await acme.post(COMPLETIONS, json=BODIES[COMPLETIONS] | wishes)).json()
    assert body["usage"]["completion_tokens"] == 30
    assert body["choices"][0]["finish_reason"] == "length"
    assert END not in body["choices"][0]["text"]


async def test_a_minimum_of_tokens_comes_before_the_end(acme: httpx.AsyncClient) -> None:
    wishes = {"min_tokens": 12, "max_tokens": 30}
    body = (await acme.post(COMPLETIONS, json=BODIES[COMPLETIONS] | wishes)).json()
    assert body["usage"]["completion_tokens"] == 18  # the script's end comes every ninth token
    assert body["choices"][0]["finish_reason"] == "stop"


async def test_the_sdk_sends_openais_fields_by_name_and_ours_beside_them(
    acme: httpx.AsyncClient, app: Any, engine: FakeEngine, model: str
) -> None:
    async with served(app) as url, sdk_of(acme, url) as sdk:
        await sdk.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "hello"}],
            max_completion_tokens=9,
            seed=1,
            frequency_penalty=0.5,
            presence_penalty=-0.5,
            logit_bias={"5": -100, "6": 2},
            extra_body=VLLMS,
        )
        await sdk.completions.create(
            model=model,
            prompt="hello",
            max_tokens=9,
            seed=1,
            frequency_penalty=0.5,
            presence_penalty=-0.5,
            logit_bias={"5": -100, "6": 2},
            extra_body=VLLMS,
        )
    assert [request.sampling for request in engine.requests] == [ASKED, ASKED]
