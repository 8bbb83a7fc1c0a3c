"""`kill -9` at every step of a deletion, a collection and an erasure: what is left is whole."""

import asyncio
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from adapters_store import AdapterStore, RevisionRef, checking, open_store
from service.adapters.collecting import Collector
from service.adapters.repository import RevisionRepository
from service.adapters.service import ModelService
from service.base.description import describe
from service.database import Database
from service.database.models import ErasureRow, RevisionRow, TenantRow
from service.erasure.service import ErasureService
from service.http.in_flight import InFlight
from service.settings import BUNDLED_BASE
from tests.builders import a_peft_folder, an_origin
from tests.unit.adapters_store.killing import asks_obstore, changes_files, killed_at

LATER = 4e9


class House(msgspec.Struct):
    """Where a tenant's things lie, so that another process finds them."""

    root: Path
    location: str

    def store(self, machine: str = "here") -> AdapterStore:
        return open_store(self.location or self.root / "adapters", self.root / machine, 1 << 30)

    def database(self) -> Database:
        return Database(f"sqlite+aiosqlite:///{self.root}/lorehouse.db")


class AtOnce(ThreadPoolExecutor):
    """Does at once and here what other threads would do, so that its steps can be counted."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **_: Any) -> "Future[Any]":  # type: ignore[override]
        future: Future[Any] = Future()
        try:
            future.set_result(work(*args))
        except Exception as fault:  # noqa: BLE001 - the future's, as a thread's would be
            future.set_exception(fault)
        return future


def act(environment: dict[str, str], house: House, deed: str, argument: str) -> None:
    """Do one deed in this process, every file's change in this thread."""
    os.environ.update(environment)
    asyncio.run(_act(house, deed, argument))


async def _act(house: House, deed: str, argument: str) -> None:
    asyncio.get_running_loop().set_default_executor(AtOnce())
    database, store = house.database(), house.store()
    models = ModelService(database, store, describe(str(BUNDLED_BASE)))
    try:
        if deed == "delete":
            await models.delete("acme", argument)
        elif deed == "collect":
            collector = Collector(database, store, models.remover, clock=lambda: LATER)
            async for _ in collector.collect():
                pass
        else:
            erasures = ErasureService(database, store, InFlight(), house.root)
            async with database.read() as session:
                row = await session.scalar(select(ErasureRow))
            assert row is not None
            await erasures.erase(row)
    finally:
        await database.close()


@pytest.fixture(params=["folder", "S3"])
def location(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("s3_url")) if request.param == "S3" else ""


def furnished(folder: Path, location: str, empty: Path) -> tuple[House, str]:
    """Publish a revision that has a name, and one that a killed publish left."""
    folder.mkdir()
    shutil.copy(empty, folder / "lorehouse.db")
    house = House(folder, location)
    store = house.store()
    staged = [a_peft_folder(folder / f"staged-{n}", seed=n, rank=1) for n in range(2)]
    refs = [store.publish("acme", "desk", path, an_origin()).ref for path in staged]
    (folder / "files" / "acme").mkdir(parents=True)
    (folder / "files" / "acme" / "file-1").write_text("a secret")
    return house, asyncio.run(_record(house, refs[0]))


async def _record(house: House, ref: RevisionRef) -> str:
    database = house.database()
    async with database.write() as session:
        session.add(TenantRow(id="acme", created_at=1))
        await session.flush()
        name = await RevisionRepository(session).record(
            "acme",
            "desk",
            ref.digest,
            base_name="lorehouse-tiny",
            format="chat",
            job_id="ftjob-1",
            size=0,
        )
    await database.close()
    return name


async def _rows(house: House) -> set[RevisionRef]:
    database = house.database()
    async with database.read() as session:
        found = await session.scalars(select(RevisionRow))
        rows = {RevisionRef(row.tenant_id, row.adapter, row.digest) for row in found}
    await database.close()
    return rows


async def _begin_erasing(house: House) -> None:
    database = house.database()
    await ErasureService(database, house.store(), InFlight(), house.root).begin("acme")
    await database.close()


def aws() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


@pytest.mark.parametrize("deed", ["delete", "collect", "erase"])
def test_what_is_left_is_whole_and_one_more_round_leaves_nothing(
    deed: str, location: str, tmp_path: Path, empty_database: Path
) -> None:
    counted = asks_obstore if location else changes_files
    for step in count():
        place = f"{location}/{step}" if location else ""
        house, name = furnished(tmp_path / str(step), place, empty_database)
        if deed == "erase":
            asyncio.run(_begin_erasing(house))
        killed = killed_at(step, act, aws(), house, deed, name, counted=counted)

        rows = asyncio.run(_rows(house))
        fresh = house.store("another machine")
        if deed != "erase":
            # A row's files are whole: opening verifies them. Collecting takes no row's.
            assert {fresh.open(ref).ref for ref in rows} == rows
        assert len(rows) == 1 or deed != "collect"

        act({}, house, "erase" if deed == "erase" else "collect", "")
        assert asyncio.run(_rows(house)) == (set() if deed == "erase" else rows)
        fresh = house.store("a third machine")
        assert set(fresh.list("acme")) == asyncio.run(_rows(house))
        assert list(checking.check(fresh, LATER)) == []
        assert (house.root / "files" / "acme").exists() == (deed != "erase")
        if not killed:
            break
    assert step > 3
