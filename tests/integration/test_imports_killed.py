"""kill -9 at any step of an import: the store is whole, and the adapter is there or it is not."""

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import select

from adapters_store import RevisionRef, checking
from service.database.models import AliasVersionRow, FineTunedModelRow, RevisionRow
from tests.archives import tar
from tests.integration.bringing import bring, service, store_at, touches_anything
from tests.integration.importing import an_adapter
from tests.unit.adapters_store.killing import killed_at
from tests.unit.adapters_store.test_objects import aws

STRIDE = int(os.environ.get("LOREHOUSE_TEST_STRIDE", "9"))
"""Of all steps every ninth: a process each. By hand, every one."""
FAR_AHEAD = 1e12
ROWS = (RevisionRow, FineTunedModelRow, AliasVersionRow)


def found(data: Path, url: str) -> tuple[int, ...]:
    """Start anew, and count what there is; what there is, is whole."""
    counts, digest = asyncio.run(_rows(data, url))
    store = store_at(data, url)
    for where in checking.collect(store, FAR_AHEAD):
        assert url, where
    assert list(checking.check(store, FAR_AHEAD)) == []
    assert list(store.list("acme", "import")) == []
    for hidden in (".staging", ".trash"):
        assert [path for folder in data.rglob(hidden) for path in folder.iterdir()] == []
    if digest is not None:
        store.open(RevisionRef("acme", "brought", digest))
    return counts


async def _rows(data: Path, url: str) -> tuple[tuple[int, ...], str | None]:
    database, imports = service(data, url)
    await imports.clean()
    async with database.read() as session:
        counts = [len((await session.scalars(select(row))).all()) for row in ROWS]
        digest = await session.scalar(select(RevisionRow.digest))
    await database.close()
    return tuple(counts), digest


@pytest.fixture
def fresh(tmp_path: Path, empty_database: Path) -> Callable[[int], Path]:
    def folder(step: int) -> Path:
        data = tmp_path / str(step)
        data.mkdir()
        shutil.copy(empty_database, data / "lorehouse.db")
        with sqlite3.connect(data / "lorehouse.db") as database:
            database.execute("INSERT INTO tenants (id, created_at) VALUES ('acme', 0)")
        return data

    return folder


@pytest.fixture(params=["files", "objects in a folder", "objects in S3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where objects are; nowhere, for files."""
    if request.param == "objects in S3":
        return str(request.getfixturevalue("s3_url"))
    return f"file://{tmp_path}/objects" if request.param == "objects in a folder" else ""


def test_an_import_killed_at_any_step_is_whole_or_absent(
    tmp_path: Path, fresh: Callable[[int], Path], url: str
) -> None:
    archive = tmp_path / "adapter.tar"
    archive.write_bytes(tar(an_adapter(tmp_path / "made")))
    seen = []
    for step in count(0, STRIDE):
        data = fresh(step)
        killed = killed_at(step, bring, aws(), data, archive, url, counted=touches_anything)
        seen.append(found(data, url))
        if not killed:
            break

    nothing, all_of_it = (0, 0, 0), (1, 1, 1)
    assert (seen[0], seen[-1]) == (nothing, all_of_it)
    assert set(seen) == {nothing, all_of_it}
    assert len(seen) > 20
