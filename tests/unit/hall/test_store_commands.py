"""`lorehouse store`: what it prints, and its exit codes."""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from adapters_store import AdapterStore, RevisionRef, open_store
from service.__main__ import main
from service.data_folder import held
from tests.builders import a_peft_folder, an_origin


@pytest.fixture(params=["", "{data}/elsewhere", "file://{data}/objects"])
def store(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    empty_database: Path,
    monkeypatch: pytest.MonkeyPatch,
    logging_restored: None,
) -> AdapterStore:
    """The store that the settings name, beside a database that knows no tenant."""
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(empty_database, data / "lorehouse.db")
    where = request.param.format(data=data)
    monkeypatch.setenv("LOREHOUSE_DATA_DIR", str(data))
    monkeypatch.setenv("LOREHOUSE_ADAPTER_STORE", where)
    return open_store(where or data / "adapters", tmp_path / "cache", 1 << 30)


@pytest.fixture
def ref(store: AdapterStore, tmp_path: Path) -> RevisionRef:
    return store.publish("acme", "desk", a_peft_folder(tmp_path / "staged"), an_origin()).ref


def kept(tmp_path: Path, name: str) -> Path:
    """Find a file where the store keeps it."""
    (path,) = (tmp_path / "data").glob(f"*/acme/desk/**/{name}")
    return path


def age(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (1, 1))


def test_a_whole_store_passes(ref: RevisionRef, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "check"]) == 0
    assert main(["store", "check", "--tenant", "acme"]) == 0
    assert main(["store", "collect"]) == 0
    assert capsys.readouterr().out == ""


def test_damage_is_printed_and_exit_code_1(
    ref: RevisionRef, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = kept(tmp_path, "adapter_model.safetensors")
    weights.chmod(0o600)
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")

    assert main(["store", "check"]) == 1
    told = capsys.readouterr()
    assert told.out.startswith(f"acme/desk/{ref.digest}  damaged: adapter_model.safetensors")
    assert told.err == "lorehouse: 1 findings in the adapter store\n"
    assert main(["store", "check", "--tenant", "globex"]) == 0


def test_an_orphan_is_printed_and_collected_when_it_is_an_hour_old(
    ref: RevisionRef, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = kept(tmp_path, "manifest.json")
    manifest.unlink()
    assert main(["store", "check"]) == 0, "it may be a publish at work"
    assert main(["store", "collect"]) == 0
    assert capsys.readouterr().out == ""
    age(manifest.parent)

    assert main(["store", "check"]) == 1
    assert "orphaned" in capsys.readouterr().out
    assert main(["store", "collect"]) == 0
    assert capsys.readouterr().out.startswith(f"acme/desk/{ref.digest}")
    assert main(["store", "check"]) == 0


@pytest.mark.parametrize("arguments", [["--tenant", "../acme"], ["--tenant", ""]])
def test_a_hostile_tenant_is_one_line(
    store: AdapterStore, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["store", "check", *arguments]) == 1
    assert "is not a name" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["ftp://here/there", "http://here/there", "memory:///", "s3://"])
def test_a_url_that_names_no_store_is_one_line_and_exit_code_2(
    where: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    logging_restored: None,
) -> None:
    monkeypatch.setenv("LOREHOUSE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("LOREHOUSE_ADAPTER_STORE", where)
    assert main(["store", "check"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "LOREHOUSE_ADAPTER_STORE" in told[0]


@pytest.fixture
def known(tmp_path: Path, ref: RevisionRef) -> RevisionRef:
    """A revision of a tenant that the database knows, without a row, and old enough."""
    with closing(sqlite3.connect(tmp_path / "data" / "lorehouse.db")) as database:
        database.execute("INSERT INTO tenants (id, created_at) VALUES ('acme', 1)")
        database.commit()
    age(kept(tmp_path, "manifest.json").parent)
    return ref


def test_a_revision_without_a_row_is_told_and_then_collected(
    known: RevisionRef, store: AdapterStore, capsys: pytest.CaptureFixture[str]
) -> None:
    where = f"acme/desk/{known.digest}"
    assert main(["store", "collect", "--dry-run"]) == 0
    assert capsys.readouterr().out == f"{where}  would go: no row speaks of it\n"
    assert list(store.list("acme")) == [known]
    assert main(["store", "collect"]) == 0
    assert capsys.readouterr().out == f"{where}  removed: no row spoke of it\n"
    assert list(store.list("acme")) == []


def test_of_a_tenant_that_the_database_does_not_know_nothing_is_taken(
    ref: RevisionRef, store: AdapterStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    age(kept(tmp_path, "manifest.json").parent)
    assert main(["store", "collect"]) == 0
    assert capsys.readouterr().out == ""
    assert list(store.list("acme")) == [ref]


def test_beside_a_running_server_whole_revisions_are_left_to_it(
    known: RevisionRef, store: AdapterStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with held(tmp_path / "data"):
        assert main(["store", "collect"]) == 0
    assert capsys.readouterr().out == "a server is running, and lets go of whole revisions itself\n"
    assert list(store.list("acme")) == [known]


def test_without_a_database_nothing_is_rubbish(
    known: RevisionRef, store: AdapterStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = tmp_path / "data" / "lorehouse.db"
    database.unlink()
    assert main(["store", "collect"]) == 1
    assert "there is no database" in capsys.readouterr().err
    assert not database.exists()
    database.touch()
    assert main(["store", "collect"]) == 1
    assert "cannot use the database: no such table" in capsys.readouterr().err
    assert list(store.list("acme")) == [known]
