"""What a name calls is found by one statement, on either database."""

import pytest

from service.adapters.aliases_repository import AliasRepository
from service.adapters.aliases_schemas import MOST_TARGETS
from service.adapters.lookup import look_up
from service.adapters.repository import RevisionRepository
from service.adapters.weights import WeightedTarget, choose
from service.database import Database
from service.database.models import TenantRow

DIGESTS = [f"{number:02x}" * 32 for number in range(1, MOST_TARGETS + 1)]


async def publish(database: Database, digest: str, step: int | None = None) -> None:
    async with database.write() as session:
        await RevisionRepository(session).record(
            "acme",
            "support",
            digest,
            base_name="tiny",
            format="chat",
            job_id=None,
            size=1,
            step=step,
        )


async def name(database: Database, alias: str, digests: list[str] | None) -> list[WeightedTarget]:
    """Have an alias name some revisions, or none any more."""
    targets = [WeightedTarget(digest, weight) for weight, digest in enumerate(digests or (), 1)]
    async with database.write() as session:
        aliases = AliasRepository(session)
        given = targets if digests else None
        await aliases.add("acme", "support", alias, given, key_id=None, reason=None)
    return targets


async def found(database: Database, model: str, sticky: str | None = None) -> str | None:
    row = await look_up(database, "acme", model, sticky)
    return None if row is None else row.digest


@pytest.fixture
async def published(database: Database) -> Database:
    async with database.write() as session:
        session.add(TenantRow(id="acme", created_at=1))
    for digest in DIGESTS:
        await publish(database, digest)
    return database


async def test_each_of_an_aliass_targets_is_found(published: Database) -> None:
    targets = await name(published, "canary", DIGESTS)
    for key in map(str, range(100)):
        assert await found(published, "support@canary", key) == choose(targets, key)


async def test_an_adapter_is_its_production_and_only_without_one_its_newest_result(
    published: Database,
) -> None:
    await publish(published, "ff" * 32, step=3)
    assert await found(published, "support") == DIGESTS[-1]
    await name(published, "production", DIGESTS[:1])
    assert await found(published, "support") == DIGESTS[0]
    await name(published, "production", DIGESTS[1:2])
    assert await found(published, "support") == DIGESTS[1]
    await name(published, "production", ["ee" * 32])
    assert await found(published, "support") is None, "not there, and never the newest instead"
    await name(published, "production", None)
    assert await found(published, "support") == DIGESTS[-1]


async def test_a_revision_of_several_names_is_called_by_its_results(published: Database) -> None:
    await publish(published, DIGESTS[0], step=3)
    await name(published, "stable", DIGESTS[:1])
    for model in ("support@stable", f"support@{DIGESTS[0]}"):
        row = await look_up(published, "acme", model, None)
        assert row is not None
        assert (row.digest, row.step) == (DIGESTS[0], None)
