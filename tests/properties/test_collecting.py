"""Publishing, deleting and collecting the same content at once: no row ever lacks its files."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from adapters_store import FilesystemAdapterStore, RevisionRef
from service.adapters.collecting import Collector
from service.adapters.removing import publishing
from service.adapters.repository import RevisionRepository
from service.adapters.service import ModelService
from service.base.description import describe
from service.database import Database
from service.database.models import RevisionRow, TenantRow
from service.errors import NotFound
from service.settings import BUNDLED_BASE
from tests.builders import a_peft_folder, an_origin

LATER = 4e9
BASE = "lorehouse-tiny"
ADAPTERS = 2


class InTurn(ThreadPoolExecutor):
    """Does what the loop's threads would do, one thing at a time and in the order that is drawn."""

    def __init__(self) -> None:
        super().__init__(1)
        self.waiting: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []

    def submit(self, work: Callable[..., Any], /, *args: Any, **_: Any) -> "Future[Any]":  # type: ignore[override]
        future: Future[Any] = Future()
        self.waiting.append((future, work, args))
        return future

    def do(self, place: int) -> None:
        future, work, args = self.waiting.pop(place % len(self.waiting))
        try:
            future.set_result(work(*args))
        except Exception as fault:  # noqa: BLE001 - the future's, as a thread's would be
            future.set_exception(fault)


class House:
    """One tenant's content, published by jobs that may die between files and row."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(f"sqlite+aiosqlite:///{folder}/lorehouse.db")
        self.store = FilesystemAdapterStore(folder / "adapters")
        self.models = ModelService(self.database, self.store, describe(str(BUNDLED_BASE)))
        self.collector = Collector(
            self.database, self.store, self.models.remover, clock=lambda: LATER
        )
        self.staged = [a_peft_folder(folder / f"s{n}", seed=n, rank=1) for n in range(ADAPTERS)]

    async def publish(self, seed: int, *, dies: bool = False) -> None:
        async with publishing(self.database, "acme"):
            work = (self.store.publish, "acme", "desk", self.staged[seed], an_origin())
            revision = await asyncio.to_thread(*work)
            if not dies:
                async with self.database.write() as session:
                    await RevisionRepository(session).record(
                        "acme", "desk", revision.ref.digest,
                        base_name=BASE, format="chat", job_id="ftjob-1", size=0,
                    )  # fmt: skip

    async def delete(self, place: int, *, dies: bool = False) -> None:
        names = [model.id for model in (await self.models.list("acme")).data[1:]]
        if not names:
            return
        name = names[place % len(names)]
        if not dies:
            try:
                await self.models.delete("acme", name)
            except NotFound:
                return  # another was faster
            return
        async with self.database.write() as session:
            revisions = RevisionRepository(session)
            if (found := await revisions.find("acme", name)) is not None:
                await revisions.forget(*found)

    async def collect(self) -> None:
        async for _ in self.collector.collect("acme"):
            pass

    async def rows(self) -> set[RevisionRef]:
        async with self.database.read() as session:
            found = await session.scalars(select(RevisionRow))
            return {RevisionRef(row.tenant_id, row.adapter, row.digest) for row in found}


Deed = Callable[[House], Coroutine[Any, Any, None]]
seeds = st.integers(0, ADAPTERS - 1)
deeds: st.SearchStrategy[Deed] = st.one_of(
    st.builds(lambda n, dies: lambda house: house.publish(n, dies=dies), seeds, st.booleans()),
    st.builds(lambda n, dies: lambda house: house.delete(n, dies=dies), seeds, st.booleans()),
    st.just(lambda house: house.collect()),
)


async def all_at_once(house: House, together: Sequence[Deed], turns: Iterator[int]) -> None:
    loop, threads = asyncio.get_running_loop(), InTurn()
    loop.set_default_executor(threads)
    tasks = [asyncio.create_task(deed(house)) for deed in together]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        turn = next(turns, 0)
        # A third of the turns let everybody come further before anything is done.
        if threads.waiting and turn % 3 != 2:
            threads.do(turn)
    for task in tasks:
        task.result()


async def whole_story(folder: Path, rounds: Sequence[Sequence[Deed]], turns: list[int]) -> None:
    house, order = House(folder), iter(turns)
    async with house.database.write() as session:
        session.add(TenantRow(id="acme", created_at=1))
    try:
        for together in rounds:
            await all_at_once(house, together, order)
            rows = await house.rows()
            assert rows <= {house.store.open(ref).ref for ref in house.store.list("acme")}
        await all_at_once(house, [House.collect], iter(()))
        assert set(house.store.list("acme")) == await house.rows()
    finally:
        await house.database.close()


@given(
    rounds=st.lists(st.lists(deeds, min_size=1, max_size=4), min_size=1, max_size=4),
    turns=st.lists(st.integers(0, 11), max_size=60),
)
@settings(max_examples=60, deadline=None)
def test_no_order_leaves_a_row_without_files_or_files_for_ever(
    empty_database: Path, rounds: list[list[Deed]], turns: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(empty_database, folder / "lorehouse.db")
        asyncio.run(whole_story(folder, rounds, turns))
