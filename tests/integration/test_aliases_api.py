"""`/v1/adapters/{adapter}/aliases`: moved by compare-and-set, with history and rollback."""

import asyncio
from collections import Counter
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from service.database import Database
from tests.fakes.engine import FakeEngine
from tests.integration.aliasing import (
    ADAPTERS,
    ALIASES,
    NEW,
    A,
    B,
    C,
    at,
    error_of,
    naming,
    put,
    record,
)
from tests.integration.generating import CHAT, COMPLETIONS, HELLO

GENERATE = "/v1/tenants/acme/generate"


@pytest.fixture
def engine() -> FakeEngine:
    """Answers for revisions whose files nobody made."""
    return FakeEngine()


@pytest.fixture
async def models(acme: httpx.AsyncClient, database: Database) -> list[str]:
    """Three results of the adapter `support`, by name, the newest last."""
    return [await record(database, digest) for digest in (A, B, C)]


async def answered(client: httpx.AsyncClient, model: str, **fields: Any) -> tuple[str, str]:
    """Which model a request of that name is answered by, and the header's digest."""
    body = {"model": model, "messages": HELLO, "max_tokens": 1} | fields
    answer = await client.post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["model"], answer.headers["x-lorehouse-revision"]


async def test_an_alias_is_made_shown_moved_and_deleted(
    acme: httpx.AsyncClient, models: list[str]
) -> None:
    made = await put(acme, "production", naming("aaaaaaaa"), NEW)
    assert made | {"created_at": 0, "key_id": ""} == {
        "object": "adapter.alias",
        "adapter": "support",
        "alias": "production",
        "version": 1,
        "targets": [{"revision": A, "weight": 1}],
        "reason": "it is better",
        "key_id": "",
        "created_at": 0,
    }
    shown = await acme.get(f"{ALIASES}/production")
    assert (shown.json(), shown.headers["etag"]) == (made, '"1"')
    moved = await put(acme, "production", naming(B), at(1))
    assert (moved["version"], moved["targets"]) == (2, [{"revision": B, "weight": 1}])
    deleted = await acme.delete(f"{ALIASES}/production", headers=at(2))
    assert deleted.json() == {
        "id": "support@production",
        "object": "adapter.alias",
        "deleted": True,
    }
    assert error_of(await acme.get(f"{ALIASES}/production"), 404)["code"] == "alias_not_found"
    gone = await acme.delete(f"{ALIASES}/production", headers=at(3))
    assert error_of(gone, 404)["code"] == "alias_not_found"


async def test_aliases_are_listed_by_name_in_pages(
    acme: httpx.AsyncClient, models: list[str]
) -> None:
    for alias in ("c", "a", "b", "d"):
        await put(acme, alias, naming(A), NEW)
    await acme.delete(f"{ALIASES}/d", headers=at(1))
    page = (await acme.get(ALIASES, params={"limit": 2})).json()
    assert [one["alias"] for one in page["data"]] == ["a", "b"]
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("a", "b", True)
    rest = (await acme.get(ALIASES, params={"after": "b"})).json()
    assert [one["alias"] for one in rest["data"]] == ["c"]
    assert rest["has_more"] is False


async def test_a_change_for_another_version_is_412_and_says_what_there_is(
    acme: httpx.AsyncClient, models: list[str]
) -> None:
    path = f"{ALIASES}/production"
    error = error_of(await acme.put(path, json=naming(A), headers=at(1)), 412)
    assert (error["code"], error["param"]) == ("precondition_failed", "If-Match")
    assert error["current"] is None
    made = await put(acme, "production", naming(A), NEW)
    for headers in (NEW, at(2)):
        error = error_of(await acme.put(path, json=naming(B), headers=headers), 412)
        assert error["current"] == made
    error = error_of(await acme.delete(path, headers=at(2)), 412)
    assert error["current"] == made
    assert (await acme.get(path)).json() == made


async def test_a_change_must_name_the_version_that_it_changes(
    acme: httpx.AsyncClient, models: list[str]
) -> None:
    path = f"{ALIASES}/production"
    for answer in (await acme.put(path, json=naming(A)), await acme.delete(path)):
        error = error_of(answer, 428)
        assert (error["code"], error["param"]) == ("precondition_required", "If-Match")
    wrong = await acme.put(path, json=naming(A), headers={"if-match": "1"})
    assert error_of(wrong, 400)["param"] == "If-Match"


async def test_of_two_changes_at_once_one_is_412(
    acme: httpx.AsyncClient, models: list[str]
) -> None:
    path = f"{ALIASES}/production"
    for version, headers in enumerate([NEW, at(1), at(2)], start=1):
        answers = await asyncio.gather(
            *(acme.put(path, json=naming(digest), headers=headers) for digest in (A, B, C))
        )
        [won] = [answer.json() for answer in answers if answer.status_code == 200]
        lost = [error_of(answer, 412) for answer in answers if answer.status_code != 200]
        assert won["version"] == version
        assert [error["current"] for error in lost] == [won] * 2


async def test_a_version_of_a_deleted_alias_never_fits_a_new_one(
    acme: httpx.AsyncClient, models: list[str]
) -> None:
    await put(acme, "production", naming(A), NEW)
    await acme.delete(f"{ALIASES}/production", headers=at(1))
    again = await put(acme, "production", naming(B), NEW)
    assert again["version"] == 3
    late = await acme.put(f"{ALIASES}/production", json=naming(C), headers=at(1))
    assert error_of(late, 412)["current"] == again


async def test_history_tells_who_when_and_why_also_of_what_was_deleted(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient, models: list[str]
) -> None:
    await put(acme, "production", naming(A, reason="first"), NEW)
    await put(acme, "production", naming(A, B, reason="try it", a=95, b=5), at(1))
    params = {"reason": "no more"}
    await acme.delete(f"{ALIASES}/production", headers=at(2), params=params)
    first = (await acme.get(f"{ALIASES}/production/history", params={"limit": 2})).json()
    params = {"after": first["last_id"]}
    rest = (await acme.get(f"{ALIASES}/production/history", params=params)).json()
    assert (first["has_more"], rest["has_more"]) == (True, False)
    told = first["data"] + rest["data"]
    assert [one["version"] for one in told] == [3, 2, 1]
    assert [one["reason"] for one in told] == ["no more", "try it", "first"]
    both = [{"revision": A, "weight": 95}, {"revision": B, "weight": 5}]
    assert [one["targets"] for one in told] == [[], both, [{"revision": A, "weight": 1}]]
    [key] = (await admin.get("/v1/admin/tenants/acme/keys")).json()["data"]
    assert {one["key_id"] for one in told} == {key["id"]}
    wrong = await acme.get(f"{ALIASES}/production/history", params={"after": "x"})
    assert error_of(wrong, 400)["param"] == "after"


async def test_rollback_names_again_what_was_named_before(
    acme: httpx.AsyncClient, models: list[str]
) -> None:
    path = f"{ALIASES}/production/rollback"
    why = {"reason": "it is worse"}
    error = error_of(await acme.post(path, json=why), 404)
    assert error["code"] == "alias_not_found"
    await put(acme, "production", naming(A), NEW)
    error = error_of(await acme.post(path, json=why), 409)
    assert error["code"] == "nothing_to_roll_back_to"
    await put(acme, "production", naming(B, C, b=3), at(1))
    rolled = await acme.post(path, json=why)
    assert rolled.headers["etag"] == '"3"'
    assert rolled.json()["targets"] == [{"revision": A, "weight": 1}]
    assert rolled.json()["reason"] == "it is worse"
    late = await acme.post(path, json=why, headers=at(2))
    assert error_of(late, 412)["current"] == rolled.json()
    again = (await acme.post(path, json=why, headers=at(3))).json()
    assert [target["weight"] for target in again["targets"]] == [3, 1]
    assert error_of(await acme.post(path, json={}), 400)["param"] == "reason"


async def test_rollback_to_a_revision_that_was_deleted_is_409(
    acme: httpx.AsyncClient, models: list[str]
) -> None:
    await put(acme, "production", naming(A), NEW)
    moved = await put(acme, "production", naming(B), at(1))
    assert (await acme.delete(f"/v1/models/{quote(models[0])}")).status_code == 200
    answer = await acme.post(f"{ALIASES}/production/rollback", json={"reason": "back"})
    error = error_of(answer, 409)
    assert answer.headers["x-should-retry"] == "false"
    assert error["code"] == "revision_deleted"
    assert A in error["message"]
    assert (await acme.get(f"{ALIASES}/production")).json() == moved


@pytest.mark.parametrize("alias", ["Production", "-x", "a" * 65, "deadbeef", "0" * 64, "a_b"])
async def test_what_cannot_name_an_alias_is_400(
    acme: httpx.AsyncClient, models: list[str], alias: str
) -> None:
    answer = await acme.put(f"{ALIASES}/{alias}", json=naming(A), headers=NEW)
    assert error_of(answer, 400)["param"] == "alias"


@pytest.mark.parametrize(
    ("targets", "param"),
    [
        ([], "targets"),
        ([{"revision": A}] * 9, "targets"),
        ([{"revision": A}, {"revision": "aaaaaaaa"}], "targets[1].revision"),
        ([{"revision": A, "weight": 0}], "targets[0].weight"),
        ([{"revision": A, "weight": 1.5}], "targets[0].weight"),
        ([{"revision": A, "weight": True}], "targets[0].weight"),
        ([{"revision": A, "more": 1}], "targets[0].more"),
    ],
)
async def test_targets_that_cannot_be_are_400_by_name(
    acme: httpx.AsyncClient, models: list[str], targets: list[Any], param: str
) -> None:
    body = {"targets": targets, "reason": "r"}
    answer = await acme.put(f"{ALIASES}/production", json=body, headers=NEW)
    assert error_of(answer, 400)["param"] == param


@pytest.mark.parametrize("reason", ["", "x" * 501, "a\0b", None, 1])
async def test_a_reason_that_cannot_be_kept_is_400(
    acme: httpx.AsyncClient, models: list[str], reason: Any
) -> None:
    path = f"{ALIASES}/production"
    answer = await acme.put(path, json=naming(A) | {"reason": reason}, headers=NEW)
    assert error_of(answer, 400)["param"] == "reason"
    made = await put(acme, "production", naming(A), NEW)
    rolled = await acme.post(f"{path}/rollback", json={"reason": reason})
    assert error_of(rolled, 400)["param"] == "reason"
    if isinstance(reason, str) and reason:
        gone = await acme.delete(path, headers=at(1), params={"reason": reason})
        assert error_of(gone, 400)["param"] == "reason"
    assert (await acme.get(path)).json() == made


async def test_only_revisions_of_the_adapter_and_tenant_can_be_named(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient, models: list[str], database: Database
) -> None:
    await record(database, "d" * 64, adapter="other")
    await record(database, "e" * 64, tenant="globex")
    for rev in ("d" * 64, "e" * 64, "f" * 64):
        answer = await acme.put(f"{ALIASES}/production", json=naming(A, rev), headers=NEW)
        error = error_of(answer, 404)
        assert (error["code"], error["param"]) == ("revision_not_found", "targets[1].revision")
        assert error["message"].replace(rev, "") == (
            "The revision 'support@' does not exist or you do not have access to it."
        )
    assert (await acme.get(f"{ALIASES}/production")).status_code == 404


async def test_anothers_adapter_and_alias_are_as_unknown_as_none(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient, models: list[str], database: Database
) -> None:
    await put(acme, "production", naming(A), NEW)
    await put(acme, "production", naming(B), at(1))
    asks: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "", {}),
        ("GET", "/production", {}),
        ("GET", "/production/history", {}),
        ("PUT", "/production", {"json": naming(A), "headers": at(2)}),
        ("DELETE", "/production", {"headers": at(2)}),
        ("POST", "/production/rollback", {"json": {"reason": "r"}}),
    ]
    for method, path, more in asks:
        foreign = await globex.request(method, ALIASES + path, **more)
        none = await globex.request(method, f"{ADAPTERS}/nothing/aliases{path}", **more)
        assert foreign.status_code == none.status_code == 404
        assert foreign.text.replace("support", "nothing") == none.text
    for model in ("support", "support@production"):
        body = {"model": model, "messages": HELLO}
        foreign = await globex.post(CHAT, json=body)
        none = await globex.post(CHAT, json=body | {"model": model.replace("support", "nothing")})
        assert foreign.status_code == none.status_code == 404
        assert foreign.text.replace("support", "nothing") == none.text
    assert (await acme.get(f"{ALIASES}/production")).json()["version"] == 2


async def test_an_alias_of_the_same_name_elsewhere_is_another(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient, models: list[str], database: Database
) -> None:
    theirs = await record(database, B, tenant="globex")
    await put(acme, "production", naming(A), NEW)
    await put(globex, "production", naming(B), NEW)
    assert await answered(acme, "support") == (models[0], A)
    assert await answered(globex, "support") == (theirs, B)


async def test_writing_and_reading_aliases_needs_the_scope_adapters(
    admin: httpx.AsyncClient, client: httpx.AsyncClient, models: list[str]
) -> None:
    body = {"name": "narrow", "scopes": ["generate", "jobs"]}
    key = (await admin.post("/v1/admin/tenants/acme/keys", json=body)).json()["key"]
    headers = {"authorization": f"Bearer {key}"}
    assert (await client.get(ALIASES, headers=headers)).status_code == 403
    answer = await client.put(f"{ALIASES}/x", json=naming(A), headers=headers | NEW)
    assert answer.status_code == 403
    assert (await admin.get(ALIASES)).status_code == 403


async def test_requests_by_alias_are_answered_by_what_it_names_at_that_moment(
    acme: httpx.AsyncClient, models: list[str], engine: FakeEngine
) -> None:
    assert await answered(acme, "support") == (models[2], C)
    await put(acme, "production", naming(A), NEW)
    await put(acme, "canary", naming(B), NEW)
    assert await answered(acme, "support") == (models[0], A)
    assert await answered(acme, "support@production") == (models[0], A)
    assert await answered(acme, "support@canary") == (models[1], B)
    assert await answered(acme, "support@cccccccc") == (models[2], C)
    asked = [request.revision.digest for request in engine.requests if request.revision]
    assert asked == [C, A, A, B, C]
    await put(acme, "production", naming(B), at(1))
    assert await answered(acme, "support") == (models[1], B)
    await acme.delete(f"{ALIASES}/production", headers=at(2))
    assert await answered(acme, "support") == (models[2], C)
    answer = await acme.post(CHAT, json={"model": "support@production", "messages": HELLO})
    assert error_of(answer, 404)["code"] == "model_not_found"


async def test_every_endpoint_knows_aliases(acme: httpx.AsyncClient, models: list[str]) -> None:
    await put(acme, "production", naming(A), NEW)
    raw = await acme.post(COMPLETIONS, json={"model": "support@production", "prompt": "x"})
    own = await acme.post(GENERATE, json={"adapter": "support@production", "prompt": "x"})
    newest = await acme.post(GENERATE, json={"prompt": "x"})
    streamed = await acme.post(GENERATE, json={"prompt": "x", "stream": True})
    for answer in (raw, own, newest, streamed):
        assert answer.headers["x-lorehouse-revision"] == A
    assert {raw.json()["model"], own.json()["model"], newest.json()["model"]} == {models[0]}
    assert (await acme.get("/v1/models/support@production")).json()["id"] == models[0]


async def test_a_canary_answers_each_client_by_one_revision_and_all_by_weight(
    acme: httpx.AsyncClient, models: list[str]
) -> None:
    await put(acme, "production", naming(A, B, a=3), NEW)
    users = [f"user-{number}" for number in range(60)]
    first = {user: await answered(acme, "support", user=user) for user in users}
    assert dict(first.values()) == {models[0]: A, models[1]: B}
    assert Counter(digest for _, digest in first.values())[A] > 30
    for user in users[:10]:
        keyed = {"prompt_cache_key": user, "user": "another"}
        assert await answered(acme, "support", **keyed) == first[user]
        own = await acme.post(GENERATE, json={"prompt": "x", "user": user})
        assert own.json()["model"] == first[user][0]
        raw = {"model": "support", "prompt": "x", "user": user}
        assert (await acme.post(COMPLETIONS, json=raw)).json()["model"] == first[user][0]
    await put(acme, "production", naming(A, B, a=1), at(1))
    after = {user: await answered(acme, "support", user=user) for user in users}
    moved = {user for user in users if after[user] != first[user]}
    assert moved
    assert {after[user] for user in moved} == {(models[1], B)}


async def test_without_a_key_a_canary_answers_by_either(
    acme: httpx.AsyncClient, models: list[str]
) -> None:
    await put(acme, "production", naming(A, B), NEW)
    # That one of two answers all of 60 happens once in 10^17 runs.
    assert {(await answered(acme, "support", user=""))[1] for _ in range(60)} == {A, B}


async def test_what_an_alias_names_is_not_deleted_with_its_last_name(
    acme: httpx.AsyncClient, models: list[str], database: Database
) -> None:
    checkpoint = await record(database, A, step=5)
    await put(acme, "production", naming(A, B), NEW)
    assert (await acme.delete(f"/v1/models/{quote(checkpoint)}")).status_code == 200
    answer = await acme.delete(f"/v1/models/{quote(models[0])}")
    error = error_of(answer, 409)
    assert answer.headers["x-should-retry"] == "false"
    assert (error["code"], error["param"]) == ("model_in_use", "model")
    assert "support@production" in error["message"]
    assert await answered(acme, models[0]) == (models[0], A)
    await put(acme, "production", naming(B), at(1))
    assert (await acme.delete(f"/v1/models/{quote(models[0])}")).status_code == 200
    assert (await acme.delete(f"/v1/models/{quote(models[1])}")).status_code == 409
    await acme.delete(f"{ALIASES}/production", headers=at(2))
    assert (await acme.delete(f"/v1/models/{quote(models[1])}")).status_code == 200
