"""The command line: clear lines and exit codes for whoever starts it wrongly."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from service.__main__ import main


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logging_restored: None) -> Path:
    monkeypatch.setenv("LOREHOUSE_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("name", "value"), [("LOREHOUSE_PROT", "80"), ("LOREHOUSE_PORT", "eighty")]
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["api"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert name in told[0]


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
@pytest.mark.parametrize("command", [["serve"], ["runtime", "generation"]])
def test_an_engine_that_is_not_installed_is_named(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOREHOUSE_ENGINE", "vllm")
    assert main(command) == 2
    assert "LOREHOUSE_ENGINE" in capsys.readouterr().err


def test_a_base_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("LOREHOUSE_BASE_MODEL", str(tmp_path / "empty"))
    monkeypatch.setenv("LOREHOUSE_PORT", "0")
    assert main(["api"]) == 2
    assert "LOREHOUSE_BASE_MODEL" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["no database at all", "sqlite+aiosqlite:////dev/null/no.db"])
def test_a_database_that_cannot_be_used_is_named(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOREHOUSE_DATABASE_URL", url)
    monkeypatch.setenv("LOREHOUSE_PORT", "0")
    assert main(["api"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "LOREHOUSE_DATABASE_URL" in told[0]


def test_what_kubernetes_injects_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOREHOUSE_SERVICE_HOST", "10.0.0.1")
    assert main(["migrate"]) == 0
    assert "LOREHOUSE_SERVICE_HOST" in capsys.readouterr().err


def test_migrate_makes_the_schema_and_may_be_repeated(data_dir: Path) -> None:
    assert main(["migrate"]) == 0
    assert main(["migrate"]) == 0
    assert (data_dir / "lorehouse.db").stat().st_size > 0


def test_the_migrations_make_the_models_schema() -> None:
    assert main(["check-migrations"]) == 0


def test_the_document_is_written_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "openapi.json"
    assert main(["openapi", "--check", str(file)]) == 1
    assert str(file) in capsys.readouterr().err
    assert main(["openapi", "--output", str(file)]) == 0
    assert main(["openapi", "--check", str(file)]) == 0
    file.write_text(json.dumps(json.loads(file.read_text()) | {"info": {}}))
    assert main(["openapi", "--check", str(file)]) == 1
