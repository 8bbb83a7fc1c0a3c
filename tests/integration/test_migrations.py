"""Databases that are in use go up, and back, with what is in them."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from service.database import migrate

BEFORE_ALIASES = "0001"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lorehouse.db"


@pytest.fixture
def used(path: Path) -> Path:
    """A database of the first version, with a job and its event in it."""
    migrate.commands(f"sqlite+aiosqlite:///{path}").upgrade(BEFORE_ALIASES)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("INSERT INTO tenants VALUES ('acme', 1)")
        database.execute(
            "INSERT INTO jobs (id, tenant_id, status, model, adapter, training_file, seed, method,"
            " spec, created_at, cancel_requested, attempts, lease_token)"
            " VALUES ('ftjob-1', 'acme', 'queued', 'm', 'a', 'f', 1, '{}', '{}', 1, 0, 0, 0)"
        )
        database.execute(
            "INSERT INTO job_events (id, tenant_id, job_id, created_at, level, type, message)"
            " VALUES ('ftevent-1', 'acme', 'ftjob-1', 1, 'info', 'message', 'hello')"
        )
    return path


def rows(path: Path, columns: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as database:
        joined = "jobs JOIN job_events ON job_events.job_id = jobs.id"
        return database.execute(f"SELECT {columns} FROM {joined}").fetchall()


def test_jobs_of_before_aliases_publish_under_none(used: Path) -> None:
    migrate.upgrade(f"sqlite+aiosqlite:///{used}")
    assert rows(used, "jobs.id, message, publish_alias") == [("ftjob-1", "hello", None)]


def test_going_back_keeps_the_jobs(used: Path) -> None:
    migrate.upgrade(f"sqlite+aiosqlite:///{used}")
    migrate.commands(f"sqlite+aiosqlite:///{used}").downgrade(BEFORE_ALIASES)
    assert rows(used, "jobs.id, message") == [("ftjob-1", "hello")]
    with closing(sqlite3.connect(used)) as database:
        columns = {row[1] for row in database.execute("PRAGMA table_info(jobs)")}
        tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
    assert "publish_alias" not in columns
    assert "alias_versions" not in tables
