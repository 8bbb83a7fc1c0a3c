"""`/v1/admin/residency`, prefetches, and how a revision compares with what runs here."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from msgspec.structs import replace
from sqlalchemy import update

from adapters_store import AdapterStore, RevisionRef
from service.adapters.origins import UNKNOWN
from service.adapters.repository import RevisionRepository
from service.base.description import BaseDescription
from service.database import Database
from service.database.models import RevisionRow
from service.runtime.pins import keep_pins
from service.serving.engine import EngineStatus
from service.serving.pinning import tell_pins
from service.settings import Settings
from tests.builders import a_peft_folder, an_origin
from tests.fakes.engine import FakeEngine
from tests.integration.aliasing import ADAPTERS, NEW, at, error_of, naming, put, record
from tests.integration.generating import CHAT, HELLO

RESIDENCY = "/v1/admin/residency"
PLACES = 2


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Places for two adapters."""
    return replace(settings, max_resident_adapters=PLACES)


@pytest.fixture
def engine(store: AdapterStore) -> FakeEngine:
    return FakeEngine(store, max_resident=PLACES)


class Line:
    """Publishes real revisions and makes them callable."""

    def __init__(
        self, database: Database, store: AdapterStore, base: BaseDescription, folder: Path
    ) -> None:
        self.database, self.store, self.base, self.folder = database, store, base, folder
        self.names: dict[RevisionRef, str] = {}

    async def publish(
        self, seed: int, tenant: str = "acme", adapter: str = "support", **origin: Any
    ) -> RevisionRef:
        folder = a_peft_folder(self.folder / f"{tenant}-{seed}", seed=seed)
        made_for = {
            "base": self.base.name,
            "base_digest": self.base.digest,
            "tokenizer_digest": self.base.tokenizer_digest,
            "chat_template_digest": self.base.chat_template_digest,
        }
        made = self.store.publish(tenant, adapter, folder, an_origin(**made_for | origin))
        self.names[made.ref] = await record(self.database, made.ref.digest, tenant, adapter)
        return made.ref


@pytest.fixture
async def line(
    acme: httpx.AsyncClient,
    globex: httpx.AsyncClient,
    database: Database,
    store: AdapterStore,
    base: BaseDescription,
    tmp_path: Path,
) -> Line:
    return Line(database, store, base, tmp_path / "made")


def path_of(ref: RevisionRef) -> str:
    return f"{RESIDENCY}/{ref.tenant}/{ref.adapter}/{ref.digest[:8]}"


async def pin(admin: httpx.AsyncClient, ref: RevisionRef, pinned: bool = True) -> dict[str, Any]:
    answer = await admin.put(path_of(ref), json={"pinned": pinned})
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    assert shown["pinned"] is pinned
    return shown


async def shown(admin: httpx.AsyncClient) -> dict[str, Any]:
    answer = await admin.get(RESIDENCY)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def until(engine: FakeEngine, holds: Callable[[EngineStatus], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds(await engine.status()):  # noqa: ASYNC110  a status is not announced
            await asyncio.sleep(0.002)


async def metrics(admin: httpx.AsyncClient) -> str:
    return (await admin.get("/metrics")).text


async def call(client: httpx.AsyncClient, model: str) -> httpx.Response:
    return await client.post(CHAT, json={"model": model, "messages": HELLO, "temperature": 0})


async def test_the_operator_sees_what_is_resident(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient, line: Line
) -> None:
    empty = await shown(admin)
    assert (empty["places"], empty["data"]) == (PLACES, [])
    assert set(empty["totals"].values()) == {0}
    assert empty["held"] == {"quantization": "none", "compute_dtype": "float32"}
    ref = await line.publish(1)
    for _ in range(3):
        assert (await call(acme, "support")).status_code == 200
    body = await shown(admin)
    [own] = body["data"]
    assert own["last_used_at"] > 1_700_000_000
    assert own["engine_id"] >= 1
    parity = own.pop("parity")
    assert parity["trained"] == parity["served"] == body["held"]
    assert set(parity["match"].values()) == {True}
    assert own | {"last_used_at": 0, "engine_id": 0} == {
        "object": "residency.revision",
        "tenant": "acme",
        "adapter": "support",
        "digest": ref.digest,
        "model": line.names[ref],
        "engine_id": 0,
        "state": "resident",
        "pinned": False,
        "in_use": 0,
        "hits": 2,
        "load_seconds": 0.0,
        "last_used_at": 0,
    }
    totals = body["totals"]
    assert (totals["hits"], totals["misses"], totals["loads"]) == (2, 1, 1)
    assert (totals["resident"], totals["pinned"], totals["evictions"]) == (1, 0, 0)


async def test_an_evicted_adapter_is_loaded_again_and_a_pinned_one_is_not_evicted(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient, line: Line
) -> None:
    refs = [await line.publish(seed, adapter=f"a{seed}") for seed in range(4)]
    assert (await pin(admin, refs[0]))["state"] == "resident", "without a request"
    texts = {}
    for _ in range(2):
        for ref in refs:
            answer = await call(acme, line.names[ref])
            assert answer.headers["x-lorehouse-revision"] == ref.digest
            text = answer.json()["choices"][0]["message"]["content"]
            assert texts.setdefault(ref, text) == text
    body = await shown(admin)
    assert {one["digest"]: one["pinned"] for one in body["data"]} == {
        refs[0].digest: True,
        refs[3].digest: False,
    }
    totals = body["totals"]
    assert (totals["loads"], totals["evictions"], totals["hits"]) == (7, 5, 2)
    await pin(admin, refs[0], pinned=False)
    for ref in refs[1:3]:
        await call(acme, line.names[ref])
    assert refs[0].digest not in {one["digest"] for one in (await shown(admin))["data"]}


async def test_a_pin_beyond_all_places_but_one_is_a_permanent_conflict(
    admin: httpx.AsyncClient, line: Line
) -> None:
    first, second = await line.publish(1), await line.publish(2, tenant="globex")
    await pin(admin, first)
    await pin(admin, first)
    answer = await admin.put(path_of(second), json={"pinned": True})
    error = error_of(answer, 409)
    assert (error["code"], error["param"]) == ("too_many_pins", "pinned")
    assert "LOREHOUSE_MAX_RESIDENT_ADAPTERS" in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    await pin(admin, first, pinned=False)
    await pin(admin, second)


async def test_pins_outlive_the_engine_and_come_back_without_a_request(
    admin: httpx.AsyncClient,
    line: Line,
    engine: FakeEngine,
    store: AdapterStore,
    database: Database,
) -> None:
    ref = await line.publish(1)
    engine.available = False
    assert (await pin(admin, ref))["state"] == "absent", "kept although no engine heard of it"
    assert (await admin.get(RESIDENCY)).status_code == 503
    reborn, stop = FakeEngine(store, max_resident=PLACES), asyncio.Event()
    keeping = asyncio.create_task(keep_pins(reborn, database, PLACES, stop))
    await until(reborn, lambda status: status.resident == [ref])
    stop.set()
    await keeping
    assert (await reborn.status()).residents[0].pinned


async def test_a_smaller_engine_keeps_as_many_pins_as_it_may(
    line: Line, store: AdapterStore, database: Database
) -> None:
    first, second = await line.publish(1), await line.publish(2)
    async with database.write() as session:
        await session.execute(update(RevisionRow).values(pinned=True))
    for places, kept in ((1, set[RevisionRef]()), (2, {first}), (3, {first, second})):
        engine = FakeEngine(store, max_resident=places)
        await tell_pins(engine, database, places)
        assert set((await engine.status()).resident) == kept


async def test_what_is_pinned_and_absent_is_shown_as_that(
    admin: httpx.AsyncClient, line: Line, store: AdapterStore
) -> None:
    ref = await line.publish(1)
    store.delete(ref)
    assert (await pin(admin, ref))["state"] == "absent"
    body = await shown(admin)
    [one] = body["data"]
    assert (one["state"], one["pinned"], one["parity"]) == ("absent", True, None)
    assert (one["load_seconds"], one["last_used_at"], one["in_use"]) == (None, None, 0)
    assert body["totals"]["load_failures"] == 1
    assert body["totals"]["pinned"] == 1


async def test_a_deleted_revision_is_pinned_no_more(
    acme: httpx.AsyncClient,
    admin: httpx.AsyncClient,
    line: Line,
    engine: FakeEngine,
    database: Database,
) -> None:
    ref, stop = await line.publish(1), asyncio.Event()
    await pin(admin, ref)
    assert (await acme.delete(f"/v1/models/{quote(line.names[ref])}")).status_code == 200
    keeping = asyncio.create_task(keep_pins(engine, database, PLACES, stop))
    await until(engine, lambda status: not status.residents[0].pinned)
    stop.set()
    await keeping
    [one] = (await shown(admin))["data"]
    assert (one["model"], one["pinned"], one["state"]) == (None, False, "resident")


async def test_the_operator_and_the_tenant_itself_may_have_a_revision_loaded(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient, line: Line, engine: FakeEngine
) -> None:
    first, second = await line.publish(1), await line.publish(2)
    answer = await admin.post(f"{path_of(first)}/prefetch")
    assert answer.status_code == 202
    assert answer.json()["digest"] == first.digest
    await until(engine, lambda status: status.resident == [first])
    answer = await acme.post(f"{ADAPTERS}/support/revisions/{second.digest}/prefetch")
    assert answer.status_code == 202
    assert answer.json() == {
        "object": "adapter.revision.prefetch",
        "adapter": "support",
        "revision": second.digest,
        "model": line.names[second],
    }
    await until(engine, lambda status: status.resident == [first, second])
    assert (await call(acme, line.names[second])).status_code == 200
    assert (await engine.status()).adapter_misses == 0


async def test_anothers_revision_and_an_unknown_one_are_not_found(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient, admin: httpx.AsyncClient, line: Line
) -> None:
    ref = await line.publish(1)
    path = f"{ADAPTERS}/support/revisions/{ref.digest}/prefetch"
    assert error_of(await globex.post(path), 404)["code"] == "revision_not_found"
    for other in (replace(ref, tenant="globex"), replace(ref, digest="f" * 64)):
        for answer in (
            await admin.put(path_of(other), json={"pinned": True}),
            await admin.post(f"{path_of(other)}/prefetch"),
        ):
            assert error_of(answer, 404)["code"] == "revision_not_found"


async def test_a_rejected_revision_is_neither_pinned_nor_prefetched(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient, database: Database, engine: FakeEngine
) -> None:
    ref = RevisionRef("acme", "support", "e" * 64)
    async with database.write() as session:
        gate = {"reason": "it changes nothing"}
        await RevisionRepository(session).reject(
            "acme", "support", ref.digest, format="chat", job_id=None, step=None, size=0, gate=gate
        )
    for answer in (
        await admin.put(path_of(ref), json={"pinned": True}),
        await admin.post(f"{path_of(ref)}/prefetch"),
        await acme.post(f"{ADAPTERS}/support/revisions/{ref.digest}/prefetch"),
    ):
        error = error_of(answer, 409)
        assert (error["code"], error["param"]) == ("revision_rejected", "rev")
        assert "it changes nothing" in error["message"]
    assert (await engine.status()).adapter_load_failures == 0
    assert (await shown(admin))["data"] == []


async def test_no_tenant_sees_or_changes_residency(acme: httpx.AsyncClient, line: Line) -> None:
    ref = await line.publish(1)
    for answer in (
        await acme.get(RESIDENCY),
        await acme.put(path_of(ref), json={"pinned": True}),
        await acme.post(f"{path_of(ref)}/prefetch"),
    ):
        assert answer.status_code == 403


@pytest.mark.parametrize(
    ("body", "param"), [({}, "pinned"), ({"pinned": 1}, "pinned"), ({"pined": True}, "pined")]
)
async def test_a_wrong_body_is_refused_by_name(
    admin: httpx.AsyncClient, line: Line, body: dict[str, Any], param: str
) -> None:
    answer = await admin.put(path_of(await line.publish(1)), json=body)
    assert error_of(answer, 400)["param"] == param


async def test_a_move_and_a_rollback_of_an_alias_prefetch_what_it_names(
    acme: httpx.AsyncClient, line: Line, engine: FakeEngine
) -> None:
    first, second, third = [await line.publish(seed) for seed in range(3)]
    await put(acme, "production", naming(first.digest), NEW)
    await until(engine, lambda status: status.resident == [first])
    body = naming(second.digest, third.digest)
    body["targets"][0]["weight"] = 95
    await put(acme, "production", body, at(1))
    await until(engine, lambda status: status.resident == [third, second])
    await acme.post(f"{ADAPTERS}/support/aliases/production/rollback", json={"reason": "worse"})
    await until(engine, lambda status: status.resident[-1] == first)
    assert engine.requests == []


async def test_a_prefetch_that_fails_is_counted_and_not_the_callers_error(
    acme: httpx.AsyncClient,
    admin: httpx.AsyncClient,
    line: Line,
    engine: FakeEngine,
    store: AdapterStore,
) -> None:
    gone, other = await line.publish(1), await line.publish(2)
    store.delete(gone)
    await put(acme, "production", naming(gone.digest), NEW)
    await until(engine, lambda status: status.adapter_load_failures == 1)
    engine.available = False
    await put(acme, "production", naming(other.digest), at(1))
    path = f"{ADAPTERS}/support/revisions/{other.digest}/prefetch"
    assert (await acme.post(path)).status_code == 202
    async with asyncio.timeout(20):
        while 'lorehouse_prefetches_total{outcome="failed"} 2.0' not in (await metrics(admin)):
            pass
    engine.available = True
    text = await metrics(admin)
    assert 'lorehouse_prefetches_total{outcome="asked"} 1.0' in text
    assert "lorehouse_engine_adapter_load_failures_total 1.0" in text


async def test_metrics_tell_of_residency(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient, line: Line
) -> None:
    ref = await line.publish(1)
    await pin(admin, ref)
    await call(acme, "support")
    text = await metrics(admin)
    for name, value in {
        "resident_adapters": 1,
        "pinned_adapters": 1,
        "adapter_hits_total": 1,
        "adapter_misses_total": 0,
        "adapter_loads_total": 1,
        "adapter_load_seconds_count": 1,
        'adapter_load_seconds_bucket{le="+Inf"}': 1,
    }.items():
        assert f"lorehouse_engine_{name} {value:.1f}" in text


async def test_a_revision_shows_how_it_was_trained_and_how_it_is_served(
    acme: httpx.AsyncClient, line: Line, engine: FakeEngine, store: AdapterStore
) -> None:
    ref = await line.publish(
        1, quantization="nf4", compute_dtype="bfloat16", chat_template_digest="0" * 64
    )

    async def parity() -> Any:
        answer = await acme.get(f"{ADAPTERS}/support/revisions/{ref.digest}")
        assert answer.status_code == 200, answer.text
        return answer.json()["parity"]

    held = {"quantization": "none", "compute_dtype": "float32"}
    same = {"base": True, "tokenizer": True, "chat_template": False}
    assert await parity() == {
        "trained": {"quantization": "nf4", "compute_dtype": "bfloat16"},
        "served": held,
        "match": same | {"quantization": False, "compute_dtype": False},
    }
    engine.available = False
    assert await parity() == {
        "trained": {"quantization": "nf4", "compute_dtype": "bfloat16"},
        "served": None,
        "match": same | {"quantization": None, "compute_dtype": None},
    }
    store.delete(ref)
    assert await parity() is None


async def test_of_an_import_nobody_knows_how_its_base_was_held(
    acme: httpx.AsyncClient, line: Line
) -> None:
    ref = await line.publish(1, quantization=UNKNOWN, compute_dtype=UNKNOWN, imported=True)
    shown = (await acme.get(f"{ADAPTERS}/support/revisions/{ref.digest}")).json()
    match = shown["parity"]["match"]
    assert (match["quantization"], match["compute_dtype"], match["base"]) == (None, None, True)
