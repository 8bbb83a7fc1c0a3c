"""`keep_last`, the collector and its preview, over HTTP and on a real store."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar
from sqlalchemy import select

from adapters_store import AdapterStore, RevisionRef
from service.adapters.collecting import Collector
from service.adapters.removing import publishing
from service.adapters.repository import RevisionRepository
from service.adapters.service import ModelService
from service.database import Database
from service.database.models import JobRow, MergeRow, RevisionRow
from tests.builders import a_peft_folder, an_origin
from tests.integration.aliasing import ADAPTERS, ALIASES, NEW, at, error_of, naming, put, record

SUPPORT = f"{ADAPTERS}/support"
LATER = 4e9

Publish = Callable[..., Awaitable[str]]


@pytest.fixture
def publish(store: AdapterStore, database: Database, tmp_path: Path) -> Publish:
    """Publish files and a name as a job does; gives the digest."""

    async def published(seed: int, job_id: str | None = None, step: int | None = None) -> str:
        staged = a_peft_folder(tmp_path / f"staged-{seed}", seed=seed, rank=1)
        digest = store.publish("acme", "support", staged, an_origin()).ref.digest
        await record(database, digest, job_id=job_id or f"ftjob-{seed}", step=step)
        return digest

    return published


@pytest.fixture
async def models(app: Litestar) -> ModelService:
    found: ModelService = await app.dependencies["models"].dependency()  # type: ignore[operator]
    return found


@pytest.fixture
def collector(database: Database, store: AdapterStore, models: ModelService) -> Collector:
    """The app's own, in a time when everything is settled."""
    return Collector(database, store, models.remover, clock=lambda: LATER)


async def limit(client: httpx.AsyncClient, keep_last: int | None) -> dict[str, Any]:
    answer = await client.post(SUPPORT, json={"keep_last": keep_last})
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def collected(collector: Collector, **how: bool) -> dict[str, str]:
    """What the collector tells, by digest."""
    return {
        found.where.rpartition("/")[2]: found.what
        async for found in collector.collect("acme", **how)
    }


def digests(store: AdapterStore) -> set[str]:
    return {ref.digest for ref in store.list("acme")}


async def test_a_limit_is_set_shown_and_taken_back(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient, publish: Publish
) -> None:
    await publish(1)
    assert (await acme.get(SUPPORT)).json()["keep_last"] is None
    assert (await limit(acme, 3))["keep_last"] == 3
    assert (await acme.get(SUPPORT)).json()["keep_last"] == 3
    assert (await limit(acme, None))["keep_last"] is None
    for bad in ({"keep_last": 0}, {"keep_last": "3"}, {"keep_last": 1, "x": 2}, {}):
        answer = await acme.post(SUPPORT, json=bad)
        assert answer.status_code == 400, bad
        assert answer.json()["error"]["param"] in ("keep_last", "x")
    foreign = await globex.post(SUPPORT, json={"keep_last": 1})
    unknown = await acme.post(f"{ADAPTERS}/nothing", json={"keep_last": 1})
    assert error_of(foreign, 404)["code"] == error_of(unknown, 404)["code"] == "adapter_not_found"
    assert (await globex.get(f"{SUPPORT}/retention")).status_code == 404


async def test_old_results_go_with_their_checkpoints_and_nothing_without_a_limit(
    acme: httpx.AsyncClient, collector: Collector, store: AdapterStore, publish: Publish
) -> None:
    old_step = await publish(1, "ftjob-a", step=4)
    old = await publish(2, "ftjob-a")
    step = await publish(3, "ftjob-b", step=4)
    new = await publish(4, "ftjob-b")
    assert await collected(collector) == {}
    await limit(acme, 1)
    told = await collected(collector)
    assert told == dict.fromkeys([old, old_step], "removed: beyond keep_last")
    assert digests(store) == {step, new}
    listed = (await acme.get(f"{SUPPORT}/revisions")).json()["data"]
    assert [revision["digest"] for revision in listed] == [new, step]
    assert (await acme.get(f"/v1/models/support@{old[:8]}")).status_code == 404


async def test_what_is_needed_stays_and_the_preview_says_for_what(
    acme: httpx.AsyncClient,
    collector: Collector,
    models: ModelService,
    store: AdapterStore,
    database: Database,
    publish: Publish,
) -> None:
    free, production, canary, pinned, parent, merging, asked = [
        await publish(seed) for seed in range(7)
    ]
    unfinished = await publish(7, "ftjob-goes-on", step=1)
    newest = await publish(8)
    await put(acme, "production", naming(free), NEW)
    await put(acme, "production", naming(production, canary, reason="canary"), at(1))
    async with database.write() as session:
        row = await session.get(RevisionRow, await seq_of(database, pinned))
        assert row is not None
        row.pinned = True
        session.add(merge_of(merging))
        session.add(job("ftjob-child", "other", {"adapter": "support", "digest": parent}))
        session.add(job("ftjob-goes-on", "support", None))
    with models.leases.open() as lease:
        lease.hold(RevisionRef("acme", "support", asked))
        await limit(acme, 1)
        preview = (await acme.get(f"{SUPPORT}/retention")).json()
        shown = {one["revision"]: (one["goes"], one["kept_by"]) for one in preview["data"]}
        assert shown == {
            free: (True, []),
            production: (False, ["the alias production"]),
            canary: (False, ["the alias production"]),
            pinned: (False, ["a pin"]),
            parent: (False, ["the job ftjob-child, which goes on from it"]),
            merging: (False, ["the merge merge-1"]),
            asked: (False, ["a request in flight"]),
            unfinished: (False, ["the job ftjob-goes-on"]),
        }
        told = await collected(collector, dry=True)
        assert told[free] == "would go: beyond keep_last 1"
        assert told[pinned] == "stays: needed by a pin"
        assert len(digests(store)) == 9
        assert set(await collected(collector)) == {free}
    assert digests(store) == {*shown, newest} - {free}
    assert set(await collected(collector)) == {asked}
    as_if = (await acme.get(f"{SUPPORT}/retention", params={"keep_last": 50})).json()
    assert (as_if["keep_last"], as_if["data"]) == (50, [])

    rolled = await acme.post(f"{ALIASES}/production/rollback", json={"reason": "worse"})
    assert error_of(rolled, 409)["code"] == "revision_deleted"
    assert free in error_of(rolled, 409)["message"]
    history = (await acme.get(f"{ALIASES}/production/history")).json()["data"]
    assert history[-1]["targets"] == [{"revision": free, "weight": 1}]


async def test_a_rejected_revision_is_no_rubbish_and_goes_when_newer_results_are_there(
    acme: httpx.AsyncClient,
    collector: Collector,
    store: AdapterStore,
    database: Database,
    publish: Publish,
    tmp_path: Path,
) -> None:
    ref = store.publish("acme", "support", a_peft_folder(tmp_path / "bad"), an_origin()).ref
    async with database.write() as session:
        row = await RevisionRepository(session).reject(
            "acme",
            "support",
            ref.digest,
            format="chat",
            job_id="ftjob-bad",
            step=None,
            size=0,
            gate={},
        )
        row.created_at = 1
    only = await publish(1)
    assert await collected(collector) == {}
    await limit(acme, 2)
    assert await collected(collector) == {}
    second = await publish(2)
    assert set(await collected(collector)) == {ref.digest}
    assert digests(store) == {only, second}


async def test_many_go_in_several_transactions(
    acme: httpx.AsyncClient, collector: Collector, database: Database
) -> None:
    for number in range(120):
        await record(database, f"{number:064x}", job_id=f"ftjob-{number}")
    await limit(acme, 2)
    assert len(await collected(collector)) == 118
    assert len((await acme.get("/v1/models")).json()["data"]) == 3


async def test_files_without_a_row_go_when_they_are_settled_and_nobody_publishes(
    acme: httpx.AsyncClient,
    app: Litestar,
    collector: Collector,
    models: ModelService,
    store: AdapterStore,
    database: Database,
    tmp_path: Path,
) -> None:
    ref = store.publish("acme", "support", a_peft_folder(tmp_path / "s"), an_origin()).ref
    young = Collector(database, store, models.remover)
    assert await collected(young) == {}
    assert await collected(collector, dry=True) == {ref.digest: "would go: no row speaks of it"}
    assert await collected(collector, revisions=False) == {}
    async with publishing(database, "acme"):
        assert await collected(collector) == {}
    with models.leases.open():
        assert await collected(collector) == {}
    assert digests(store) == {ref.digest}
    await collector.go_round()
    assert digests(store) == set()


async def test_a_tenant_of_another_database_loses_nothing(
    acme: httpx.AsyncClient, collector: Collector, store: AdapterStore, tmp_path: Path
) -> None:
    ref = store.publish("initech", "desk", a_peft_folder(tmp_path / "s"), an_origin()).ref
    await collector.go_round()
    assert list(store.list("initech")) == [ref]


async def seq_of(database: Database, digest: str) -> int:
    async with database.read() as session:
        seq = await session.scalar(select(RevisionRow.seq).where(RevisionRow.digest == digest))
    assert seq is not None
    return seq


def merge_of(digest: str) -> MergeRow:
    return MergeRow(
        id="merge-1",
        tenant_id="acme",
        adapter="support",
        digest=digest,
        model="m",
        spec={},
        status="running",
        created_at=1,
        attempts=0,
        lease_token=0,
    )


def job(job_id: str, adapter: str, base_adapter: dict[str, str] | None) -> JobRow:
    return JobRow(
        id=job_id,
        tenant_id="acme",
        status="running",
        model="lorehouse-tiny",
        adapter=adapter,
        training_file="file-1",
        seed=1,
        method={},
        spec={"base_adapter": base_adapter},
        created_at=1,
        cancel_requested=False,
        attempts=0,
        lease_token=0,
    )
