"""Rows of revisions: recorded once, found by every name they have, gone with the last one."""

import pytest

from service.adapters.repository import RevisionRepository
from service.database import Database
from service.database.models import AdapterRow, RevisionRow, TenantRow

DIGEST = "ab" * 32
TWIN = DIGEST[:10] + "f" * 54
"""Begins like DIGEST."""


@pytest.fixture
async def database(database: Database) -> Database:
    async with database.write() as session:
        session.add_all([TenantRow(id="acme", created_at=1), TenantRow(id="globex", created_at=1)])
    return database


async def record(
    database: Database,
    digest: str = DIGEST,
    tenant: str = "acme",
    adapter: str = "support",
    step: int | None = None,
) -> str:
    async with database.write() as session:
        return await RevisionRepository(session).record(
            tenant,
            adapter,
            digest,
            base_name="tiny",
            format="chat",
            job_id="ftjob-1",
            size=0,
            step=step,
        )


async def test_a_result_and_its_checkpoint_are_two_names_of_one_revision(
    database: Database,
) -> None:
    result, checkpoint = await record(database), await record(database, step=12)
    assert result == "ft:tiny:acme:support:abababab"
    assert checkpoint == "ft:tiny:acme:support:abababab:ckpt-step-12"
    async with database.read() as session:
        revisions = RevisionRepository(session)
        names = [name for name, _ in await revisions.names("acme")]
        found = [await revisions.find("acme", name) for name in names]
    assert names == [checkpoint, result]
    assert len({revision.id for _, revision in filter(None, found)}) == 1


async def test_recording_again_changes_nothing(database: Database) -> None:
    assert await record(database) == await record(database)
    async with database.read() as session:
        assert len(await RevisionRepository(session).names("acme")) == 1


async def test_a_revision_that_begins_alike_gets_a_longer_name(database: Database) -> None:
    first, second = await record(database), await record(database, TWIN)
    assert second == f"ft:tiny:acme:support:{TWIN[:11]}"
    async with database.read() as session:
        revisions = RevisionRepository(session)
        for name, rev in ((first, DIGEST[:8]), (first, DIGEST), (second, TWIN[:11])):
            found = await revisions.revision("acme", "support", rev)
            assert found is not None
            assert found[0].name == name
        assert await revisions.revision("acme", "support", DIGEST[:9]) is None


async def test_equal_bytes_elsewhere_are_another_revision(database: Database) -> None:
    await record(database)
    await record(database, adapter="sales")
    name = await record(database, tenant="globex")
    async with database.write() as session:
        revisions = RevisionRepository(session)
        found = await revisions.find("globex", name)
        assert found is not None
        assert await revisions.forget(*found) is True
        assert len(await revisions.names("acme")) == 2


async def test_the_newest_is_a_jobs_result_and_never_a_checkpoint(database: Database) -> None:
    await record(database)
    await record(database, TWIN, adapter="sales")
    await record(database, "9" * 64, step=3)
    async with database.read() as session:
        revisions = RevisionRepository(session)
        newest = await revisions.newest("acme")
        assert newest is not None
        assert newest[1].digest == TWIN
        assert await revisions.newest("globex") is None


async def test_a_revision_goes_with_its_last_name(database: Database) -> None:
    names = [await record(database), await record(database, step=12)]
    gone = []
    for name in names:
        async with database.write() as session:
            revisions = RevisionRepository(session)
            found = await revisions.find("acme", name)
            assert found is not None
            gone.append(await revisions.forget(*found))
    assert gone == [False, True]
    async with database.read() as session:
        assert await session.get(RevisionRow, 1) is None
        assert await session.get(AdapterRow, 1) is not None


async def test_another_tenants_names_are_not_found(database: Database) -> None:
    name = await record(database)
    async with database.read() as session:
        revisions = RevisionRepository(session)
        assert await revisions.find("globex", name) is None
        assert await revisions.revision("globex", "support", DIGEST) is None
        assert await revisions.names("globex") == []
