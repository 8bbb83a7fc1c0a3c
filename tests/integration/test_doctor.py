"""`lorehouse doctor` as it is run: on this machine, and with settings that would not do."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.base import capabilities
from service.database import migrate
from service.doctor import places
from service.doctor.facts import Missing
from service.settings import Settings

ROOT = Path(__file__).parents[2]


def told(folder: Path, first: str = "", **settings: str) -> tuple[int, dict[str, Any]]:
    """Run it as an operator does; give its exit code and what it said.

    Modules are looked for in the folder `first` before all others.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LOREHOUSE_")}
    given = {"DATA_DIR": str(folder / "data"), "PORT": "0"} | settings
    path = os.pathsep.join(filter(None, [first, environment.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "service", "doctor", "--json"],
        cwd=ROOT,
        env=environment
        | {"PYTHONPATH": path}
        | {f"LOREHOUSE_{name}": value for name, value in given.items()},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


@pytest.mark.torch
def test_it_says_what_will_run_here_and_makes_nothing(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    code, said = told(tmp_path)
    assert (code, said["will_run"], said["reasons"]) == (0, True, [])
    found = {one["check"]: one for one in said["checks"]}
    for check in ("torch", "4-bit weights", "products", "attention", "base", "memory plan"):
        assert found[check]["state"] == "ok", found[check]
    assert found["database"]["found"].endswith("the first start makes its tables")
    assert said["runs"]["engine"].startswith("resident")
    assert "lorehouse-tiny" in said["runs"]["base"]
    assert list(tmp_path.iterdir()) == []


def test_every_bad_setting_and_a_broken_torch_are_reasons_not_to_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so is gone')")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, said = told(
            tmp_path,
            first=str(tmp_path),
            DATA_DIR=str(tmp_path / "file" / "data"),
            DATABASE_URL="postgresql+asyncpg://user:hidden@127.0.0.1:1/name",
            BASE_MODEL=str(tmp_path / "none"),
            PORT=str(taken.getsockname()[1]),
        )
    assert (code, said["will_run"]) == (1, False)
    expected = {"torch", "data folder", "adapter store", "database", "base", "port"}
    assert expected <= {*said["reasons"]}
    assert "ImportError: libtorch.so is gone" in json.dumps(said)
    assert "hidden" not in json.dumps(said)
    assert said["runs"] == {}
    assert all(one["do"] for one in said["checks"] if one["state"] == "fail")


def test_a_database_is_asked_for_its_schema(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    (tmp_path / "lorehouse.db").touch()
    empty = places.schema(settings)
    assert (empty.revision, empty.fault) == (None, None)
    migrate.upgrade(settings.sqlalchemy_url)
    made = places.schema(settings)
    assert made.revision == made.newest == empty.newest != ""
    (tmp_path / "lorehouse.db").write_bytes(b"no database" * 100)
    assert "not a database" in (places.schema(settings).fault or "")


def test_a_wrong_password_is_the_databases_fault(postgres: Any) -> None:
    url = postgres.url("nowhere")
    found = places.schema(Settings(database_url=url))
    assert "nowhere" in (found.fault or "")


def test_a_base_that_a_start_would_fetch_is_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = places.base(Settings(base_model="somebody/some-model"))
    assert found == Missing("somebody/some-model is not in the hub's cache yet", fetched=True)


def test_a_probe_that_dies_is_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\necho 'Illegal instruction' >&2\nkill -9 $$\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    assert capabilities.capabilities() == "it ended with code -9: Illegal instruction"


def test_without_torch_nothing_is_tried() -> None:
    found = capabilities.examine(["no_such_module", "json"])
    assert found.imports == {
        "no_such_module": "ModuleNotFoundError: No module named 'no_such_module'",
        "json": None,
    }
    assert (found.gpus, found.kernels) == ([], {})
