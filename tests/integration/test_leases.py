"""An answer under way is never changed or broken by a deletion; the files go when it has ended."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar

from adapters_store import AdapterStore, RevisionRef
from service.adapters.leases import Leases
from service.adapters.removing import Remover
from service.adapters.repository import RevisionRepository
from service.database import Database
from service.serving.engine import GenerationRequest, Piece
from tests.builders import a_peft_folder, an_origin
from tests.fakes.engine import FakeEngine
from tests.integration.generating import BASE, CHAT, HELLO, error_of, events_of

SECRETS: dict[str, str] = {}


class SlowEngine(FakeEngine):
    """Loads nothing before it is told to; says each revision's own secret."""

    def __init__(self, store: AdapterStore) -> None:
        super().__init__(store, answer=lambda request, _: SECRETS[str(request.revision)])
        self.asked = asyncio.Event()
        self.may_load = asyncio.Event()

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Piece]:
        self.asked.set()
        await self.may_load.wait()
        async for piece in super().generate(request):
            yield piece


@pytest.fixture
def engine(store: AdapterStore) -> SlowEngine:
    return SlowEngine(store)


@pytest.fixture
async def model(
    acme: httpx.AsyncClient, store: AdapterStore, database: Database, tmp_path: Path
) -> tuple[str, RevisionRef]:
    return await publish(store, database, tmp_path, seed=1)


async def publish(
    store: AdapterStore, database: Database, folder: Path, seed: int
) -> tuple[str, RevisionRef]:
    staged = a_peft_folder(folder / f"staged-{seed}", seed=seed)
    ref = store.publish("acme", "desk", staged, an_origin()).ref
    SECRETS[str(ref)] = f"secret {seed} of {ref.digest[:8]}"
    async with database.write() as session:
        name = await RevisionRepository(session).record(
            "acme", "desk", ref.digest, base_name=BASE, format="chat", job_id="ftjob-1", size=0
        )
    return name, ref


def asking(client: httpx.AsyncClient, model: str, **more: Any) -> "asyncio.Task[httpx.Response]":
    body = {"model": model, "messages": HELLO, **more}
    return asyncio.create_task(client.post(CHAT, json=body))


async def gone(store: AdapterStore, ref: RevisionRef) -> None:
    """Wait until the files have been removed, which the last answer's end began."""
    while True:
        if ref not in [*store.list(ref.tenant)]:
            return
        await asyncio.sleep(0)


@pytest.mark.parametrize("more", [{}, {"n": 3}, {"stream": True}])
async def test_a_request_that_waits_for_its_load_survives_the_deletion(
    acme: httpx.AsyncClient,
    engine: SlowEngine,
    store: AdapterStore,
    model: tuple[str, RevisionRef],
    app: Litestar,
    more: dict[str, Any],
) -> None:
    name, ref = model
    waiting = asking(acme, "desk", **more)
    await engine.asked.wait()
    assert (await acme.delete(f"/v1/models/{name}")).json()["deleted"]

    late = await acme.post(CHAT, json={"model": "desk", "messages": HELLO})
    assert (late.status_code, error_of(late)["code"]) == (404, "model_not_found")
    assert [*store.list("acme")] == [ref]

    engine.may_load.set()
    answer = await waiting
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-lorehouse-revision"] == ref.digest
    assert said(answer) == {SECRETS[str(ref)]}
    await asyncio.wait_for(gone(store, ref), 10)


def said(answer: httpx.Response) -> set[str]:
    """What the choices of an answer say, streamed or not."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return {choice["message"]["content"] for choice in answer.json()["choices"]}
    texts: dict[int, str] = {}
    for event in events_of(answer):
        for choice in event["choices"]:
            piece = choice["delta"].get("content") or ""
            texts[choice["index"]] = texts.get(choice["index"], "") + piece
    return set(texts.values())


async def test_a_moved_name_changes_no_answer_under_way(
    acme: httpx.AsyncClient,
    engine: SlowEngine,
    store: AdapterStore,
    database: Database,
    model: tuple[str, RevisionRef],
    tmp_path: Path,
) -> None:
    waiting = asking(acme, "desk")
    await engine.asked.wait()
    _, newer = await publish(store, database, tmp_path, seed=2)
    await acme.delete(f"/v1/models/{model[0]}")
    after = asking(acme, "desk")
    engine.may_load.set()
    assert said(await waiting) == {SECRETS[str(model[1])]}
    assert said(await after) == {SECRETS[str(newer)]}
    await asyncio.wait_for(gone(store, model[1]), 10)
    assert [*store.list("acme")] == [newer]


async def test_equal_content_that_is_published_again_stays(
    acme: httpx.AsyncClient,
    engine: SlowEngine,
    store: AdapterStore,
    database: Database,
    model: tuple[str, RevisionRef],
    tmp_path: Path,
    app: Litestar,
) -> None:
    name, ref = model
    waiting = asking(acme, "desk")
    await engine.asked.wait()
    await acme.delete(f"/v1/models/{name}")
    assert await publish(store, database, tmp_path, seed=1) == (name, ref)
    engine.may_load.set()
    assert said(await waiting) == {SECRETS[str(ref)]}
    remover = (await app.dependencies["models"].dependency()).remover  # type: ignore[operator]
    await asyncio.gather(*remover._waiting)
    assert store.open(ref).ref == ref


class LeaseThatEndsWhenLookedAt(Leases):
    """The last lease ends right after somebody was told that there is one."""

    def held(self, ref: RevisionRef) -> bool:
        held = super().held(ref)
        for number in [*self._open]:
            self.close(number)
        return held


async def test_files_go_when_the_last_lease_ends_as_their_removal_looks_at_it(
    store: AdapterStore, database: Database, tmp_path: Path
) -> None:
    ref = store.publish("acme", "desk", a_peft_folder(tmp_path / "a", seed=1), an_origin()).ref
    leases = LeaseThatEndsWhenLookedAt()
    lease = leases.open()
    remover = Remover(database, store, leases)
    await remover.remove_when_free(ref)
    await asyncio.gather(*remover._waiting)
    lease.close()
    assert [*store.list("acme")] == []


async def test_every_end_of_a_request_ends_its_lease(
    acme: httpx.AsyncClient,
    engine: SlowEngine,
    model: tuple[str, RevisionRef],
    app: Litestar,
) -> None:
    leases = (await app.dependencies["models"].dependency()).leases  # type: ignore[operator]
    refused = await acme.post(CHAT, json={"model": "desk", "messages": HELLO, "n": 99})
    assert refused.status_code == 400
    assert (await asking(acme, "nothing")).status_code == 404
    too_long = [{"role": "user", "content": "word " * 3000}]
    assert (await acme.post(CHAT, json={"model": "desk", "messages": too_long})).status_code == 400
    assert len(leases) == 0

    for more in ({}, {"stream": True}):
        engine.asked.clear()
        leaving = asking(acme, "desk", **more)
        await engine.asked.wait()
        assert len(leases) == 1
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert len(leases) == 0

    engine.may_load.set()
    assert (await asking(acme, BASE)).status_code in (200, 500)
    await engine.close()
    assert (await asking(acme, "desk")).status_code == 503
    assert len(leases) == 0
