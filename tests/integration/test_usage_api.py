"""`GET /v1/usage`: what was used, by day, as OpenAI's SDK reads it."""

from typing import Any

import httpx
import msgspec
import openai
import pytest
from litestar import Litestar
from openai.types.admin.organization import UsageCompletionsResponse

from service.database import Database
from service.tenants.usage_counters import DAY_SECONDS, Amount, Counter
from service.tenants.usage_repository import UsageRepository
from tests.integration.generating import BASE, digest_of, error_of, publish

USAGE = "/v1/usage"
MONDAY = 20_000 * DAY_SECONDS
TUESDAY = MONDAY + DAY_SECONDS
WEEK = {"start_time": MONDAY, "end_time": MONDAY + 7 * DAY_SECONDS}
GENERATED = "organization.usage.completions.result"


@pytest.fixture
async def model(acme: httpx.AsyncClient, globex: httpx.AsyncClient, database: Database) -> str:
    """A model of acme's, after some use; globex used something as well."""
    model, digest = await publish(database, "acme", "support"), digest_of("acme", "support")
    one = Counter("acme", "generated", "key_1", "support", digest, model)
    base = Counter("acme", "generated", "key_2", "", "", BASE)
    trained = Counter("acme", "trained", "key_1", "support", "ftjob-1", BASE)
    going = msgspec.structs.replace(trained, digest="ftjob-2")
    theirs = Counter("globex", "generated", "key_3", "", "", BASE)
    async with database.write() as session:
        usage = UsageRepository(session)
        await usage.add(one, MONDAY, Amount(1, 10, 100))
        await usage.add(base, MONDAY, Amount(2, 20, 200))
        await usage.add(one, TUESDAY, Amount(4, 40, 400))
        await usage.add(trained, MONDAY, Amount(output_tokens=5000))
        await usage.add(going, TUESDAY, Amount(output_tokens=600))
        await usage.add(theirs, MONDAY, Amount(9, 9, 9))
    return model


async def buckets(client: httpx.AsyncClient, path: str = USAGE, **params: Any) -> dict[int, Any]:
    answer = await client.get(path, params=WEEK | params)
    assert answer.status_code == 200, answer.text
    page = answer.json()
    assert (page["object"], page["has_more"], page["next_page"]) == ("page", False, None)
    assert [bucket["start_time"] for bucket in page["data"]] == [
        MONDAY + i * DAY_SECONDS for i in range(7)
    ]
    return {bucket["start_time"]: bucket["results"] for bucket in page["data"]}


async def test_days_tell_what_was_generated_and_trained(
    acme: httpx.AsyncClient, model: str
) -> None:
    days = await buckets(acme)
    generated, trained = days[MONDAY]
    assert generated["object"] == GENERATED
    assert (generated["num_model_requests"], generated["input_tokens"]) == (3, 30)
    assert generated["output_tokens"] == 300
    assert (generated["api_key_id"], generated["model"], generated["adapter"]) == (None,) * 3
    assert (trained["object"], trained["trained_tokens"]) == ("usage.training.result", 5000)
    assert days[TUESDAY + DAY_SECONDS] == []


async def test_groups_name_key_model_adapter_revision_and_job(
    acme: httpx.AsyncClient, model: str
) -> None:
    by = ["api_key_id", "model", "adapter", "revision", "job_id"]
    days = await buckets(acme, group_by=by)
    names = [[result.get(name) for name in by] for result in days[MONDAY]]
    digest = digest_of("acme", "support")
    assert names == [
        ["key_1", model, "support", digest, None],
        ["key_2", BASE, None, None, None],
        ["key_1", BASE, "support", digest, "ftjob-1"],
    ]
    # Its job has made nothing yet.
    assert [result.get("revision") for result in days[TUESDAY]] == [digest, None]
    by_key = await buckets(acme, group_by="api_key_id")
    assert [r["output_tokens"] for r in by_key[MONDAY] if r["object"] == GENERATED] == [100, 200]


async def test_pages_are_walked_by_next_page(acme: httpx.AsyncClient, model: str) -> None:
    first = (await acme.get(USAGE, params=WEEK | {"limit": 3})).json()
    assert (len(first["data"]), first["has_more"]) == (3, True)
    more = (await acme.get(USAGE, params=WEEK | {"limit": 7, "page": first["next_page"]})).json()
    assert [bucket["start_time"] for bucket in more["data"]] == [
        MONDAY + i * DAY_SECONDS for i in range(3, 7)
    ]


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"start_time": -1},
        {"start_time": 5, "end_time": 5},
        WEEK | {"bucket_width": "1h"},
        WEEK | {"group_by": "project_id"},
        WEEK | {"limit": 32},
        WEEK | {"page": "page_2"},
    ],
)
async def test_a_bad_query_is_refused(acme: httpx.AsyncClient, params: dict[str, Any]) -> None:
    answer = await acme.get(USAGE, params=params)
    assert answer.status_code == 400
    assert error_of(answer)["type"] == "invalid_request_error"


async def test_the_operator_sees_any_tenants(
    admin: httpx.AsyncClient, acme: httpx.AsyncClient, model: str
) -> None:
    path = "/v1/admin/tenants/{}/usage"
    assert await buckets(admin, path.format("acme")) == await buckets(acme)
    [theirs] = (await buckets(admin, path.format("globex")))[MONDAY]
    assert theirs["output_tokens"] == 9
    assert (await admin.get(path.format("nobody"), params=WEEK)).status_code == 404
    assert (await acme.get(path.format("acme"), params=WEEK)).status_code == 403


async def test_openais_sdk_reads_it(app: Litestar, acme: httpx.AsyncClient, model: str) -> None:
    sdk = openai.AsyncOpenAI(
        api_key=acme.headers["authorization"].removeprefix("Bearer "),
        base_url="http://lorehouse.test/v1",
        http_client=httpx.AsyncClient(transport=httpx.ASGITransport(app)),
    )
    query: dict[str, Any] = WEEK | {"group_by": ["model"]}
    page = await sdk.get("/usage", cast_to=UsageCompletionsResponse, options={"params": query})
    await sdk.close()
    [mine, base] = [r for r in page.data[0].results if r.object == GENERATED]
    assert (mine.model, mine.output_tokens) == (model, 100)
    assert (base.model, base.num_model_requests) == (BASE, 2)
