"""Databases that are in use go up and down, version by version, with what is in them; on both."""

import asyncio
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Inspector, inspect, text
from sqlalchemy.ext.asyncio import create_async_engine

from service.database import migrate

VERSIONS = [
    script.revision
    for script in reversed(list(ScriptDirectory(str(migrate.MIGRATIONS)).walk_revisions()))
]
NEWEST = VERSIONS[-1]
FIRST_ROWS = (
    "INSERT INTO tenants (id, created_at) VALUES ('acme', 1)",
    (
        "INSERT INTO jobs (id, tenant_id, status, model, adapter, training_file, seed, method,"
        " spec, created_at, cancel_requested, attempts, lease_token)"
        " VALUES ('ftjob-1', 'acme', 'queued', 'm', 'a', 'f', 1, '{}', '{}', 1, false, 0, 0)"
    ),
    (
        "INSERT INTO job_events (id, tenant_id, job_id, created_at, level, type, message)"
        " VALUES ('ftevent-1', 'acme', 'ftjob-1', 1, 'info', 'message', 'hello')"
    ),
)


@pytest.fixture
def url(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty database."""
    if backend == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path}/lorehouse.db"
        return
    server, name = request.getfixturevalue("postgres"), f"migrating_{secrets.token_hex(4)}"
    server.execute(f"CREATE DATABASE {name}")
    yield server.url(name)
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def go(url: str, version: str) -> None:
    """Bring a database to a version, whichever way that is."""
    commands = migrate.commands(url)
    at = looked_at(url, _version)
    if version == "base" or (at and VERSIONS.index(version) < VERSIONS.index(at)):
        commands.downgrade(version)
    else:
        commands.upgrade(version)


def looked_at(url: str, look: Callable[[Connection], Any]) -> Any:
    async def connected() -> Any:
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            found = await connection.run_sync(look)
        await engine.dispose()
        return found

    return asyncio.run(connected())


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_versions"):
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_versions"))
    return found


def _fill(connection: Connection) -> None:
    for statement in FIRST_ROWS:
        connection.execute(text(statement))


def _rows(connection: Connection) -> list[tuple[Any, ...]]:
    joined = "jobs JOIN job_events ON job_events.job_id = jobs.id"
    columns = "jobs.id, status, cancel_requested, message"
    return [tuple(row) for row in connection.execute(text(f"SELECT {columns} FROM {joined}"))]


def _schema(connection: Connection) -> dict[str, Any]:
    """Describe every table, so that two databases can be compared."""
    found = inspect(connection)
    names = [name for name in found.get_table_names() if not name.startswith("alembic")]
    return {name: _table(found, name) for name in names}


def _table(found: Inspector, name: str) -> dict[str, Any]:
    columns = {
        column["name"]: (str(column["type"]), column["nullable"], column["default"])
        for column in found.get_columns(name)
    }
    return {
        "columns": columns,
        "key": found.get_pk_constraint(name)["constrained_columns"],
        "unique": sorted(str(c["column_names"]) for c in found.get_unique_constraints(name)),
        "indexes": sorted(str((i["name"], i["column_names"])) for i in found.get_indexes(name)),
        "references": sorted(
            str((key["constrained_columns"], key["referred_table"]))
            for key in found.get_foreign_keys(name)
        ),
    }


def test_each_version_goes_up_and_back_as_it_was_with_what_is_in_it(url: str) -> None:
    go(url, VERSIONS[0])
    looked_at(url, _fill)
    rows = looked_at(url, _rows)
    assert [(row[0], row[1], bool(row[2]), row[3]) for row in rows] == [
        ("ftjob-1", "queued", False, "hello")
    ]
    schemas = {VERSIONS[0]: looked_at(url, _schema)}
    for version in VERSIONS[1:]:
        go(url, version)
        schemas[version] = looked_at(url, _schema)
        assert looked_at(url, _rows) == rows, version
    for version in reversed(VERSIONS[:-1]):
        go(url, version)
        assert looked_at(url, _schema) == schemas[version], version
        assert looked_at(url, _rows) == rows, version


def test_the_newest_is_what_the_models_say_and_nothing_is_left_of_it(url: str) -> None:
    go(url, NEWEST)
    migrate.commands(url).check()
    go(url, "base")
    assert looked_at(url, _schema) == {}
    go(url, NEWEST)
    migrate.commands(url).check()
