"""`/v1/models` as OpenAI's clients use it."""

from urllib.parse import quote

import httpx
import pytest
from openai.types import Model

from service.adapters.repository import RevisionRepository
from service.database import Database

MODELS = "/v1/models"
BASE = "lorehouse-tiny"


async def a_model(database: Database, tenant: str, digest: str, step: int | None = None) -> str:
    async with database.write() as session:
        return await RevisionRepository(session).record(
            tenant,
            "support",
            digest,
            base_name=BASE,
            format="chat",
            job_id="ftjob-1",
            size=0,
            step=step,
        )


async def test_the_base_comes_first_then_ones_own(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient, database: Database
) -> None:
    own = await a_model(database, "acme", "a" * 64)
    checkpoint = await a_model(database, "acme", "a" * 64, step=5)
    await a_model(database, "globex", "b" * 64)
    listed = (await acme.get(MODELS)).json()
    for model in listed["data"]:
        Model.model_validate(model, strict=True)
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == [BASE, checkpoint, own]
    assert [model["owned_by"] for model in listed["data"]] == ["lorehouse", "acme", "acme"]


async def test_a_model_is_shown_however_its_colons_are_sent(
    acme: httpx.AsyncClient, database: Database
) -> None:
    name = await a_model(database, "acme", "a" * 64)
    for path in (name, quote(name, safe=""), "support", "support@aaaaaaaa", "support%40aaaaaaaa"):
        shown = await acme.get(f"{MODELS}/{path}")
        assert shown.json()["id"] == name
    assert (await acme.get(f"{MODELS}/{BASE}")).json()["owned_by"] == "lorehouse"


@pytest.mark.parametrize("name", ["gpt-4o", "a/b", "a%2Fb", "%2e%2e%2fx", "x@y", "ft:x", "%00"])
async def test_an_unknown_name_is_404_of_the_model(acme: httpx.AsyncClient, name: str) -> None:
    for method in ("GET", "DELETE"):
        answer = await acme.request(method, f"{MODELS}/{name}")
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "model_not_found"
        assert answer.json()["error"]["param"] == "model"


async def test_another_tenants_model_is_as_unknown_as_none(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient, database: Database
) -> None:
    name = await a_model(database, "acme", "a" * 64)
    for method in ("GET", "DELETE"):
        foreign = await globex.request(method, f"{MODELS}/{name}")
        missing = name.replace("aaaaaaaa", "bbbbbbbb")
        nothing = await globex.request(method, f"{MODELS}/{missing}")
        assert foreign.status_code == nothing.status_code == 404
        assert foreign.text.replace(name, missing) == nothing.text
    assert (await acme.get(f"{MODELS}/{name}")).status_code == 200


async def test_a_deleted_model_is_gone(acme: httpx.AsyncClient, database: Database) -> None:
    name = await a_model(database, "acme", "a" * 64)
    deleted = await acme.delete(f"{MODELS}/{quote(name, safe='')}")
    assert deleted.json() == {"id": name, "object": "model", "deleted": True}
    assert (await acme.get(f"{MODELS}/{name}")).status_code == 404
    assert (await acme.delete(f"{MODELS}/{name}")).status_code == 404
    assert [model["id"] for model in (await acme.get(MODELS)).json()["data"]] == [BASE]


async def test_the_base_cannot_be_deleted(acme: httpx.AsyncClient) -> None:
    answer = await acme.delete(f"{MODELS}/{BASE}")
    assert answer.status_code == 403
    assert "base model" in answer.json()["error"]["message"]


async def test_any_key_of_the_tenant_reads_but_only_the_scope_adapters_deletes(
    admin: httpx.AsyncClient, acme: httpx.AsyncClient, client: httpx.AsyncClient, database: Database
) -> None:
    name = await a_model(database, "acme", "a" * 64)
    body = {"name": "narrow", "scopes": ["generate"]}
    key = (await admin.post("/v1/admin/tenants/acme/keys", json=body)).json()["key"]
    headers = {"authorization": f"Bearer {key}"}
    assert (await client.get(f"{MODELS}/{name}", headers=headers)).status_code == 200
    assert (await client.delete(f"{MODELS}/{name}", headers=headers)).status_code == 403
    assert (await client.get(MODELS)).status_code == 401
    assert (await admin.get(MODELS)).status_code == 403
