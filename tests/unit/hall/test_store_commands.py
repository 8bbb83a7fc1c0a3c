"""`lorehouse store`: what it prints, and its exit codes."""

import os
import shutil
from pathlib import Path

import pytest

from adapters_store import AdapterStore, RevisionRef, open_store
from service.__main__ import main
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
