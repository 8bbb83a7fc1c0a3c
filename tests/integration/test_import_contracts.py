"""Each import contract holds, and is seen to fail when it is broken."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

BREACHES = {
    "data flows one way": ("service/tenants/repository.py", "import service.jobs.lifecycle"),
    "the adapter store stands alone": ("adapters_store/layout.py", "import service.errors"),
    "HTTP stays at the edge": ("service/jobs/service.py", "import litestar"),
    "model libraries stay behind their doors": ("service/serving/service.py", "import torch"),
    "training never imports serving, nor knows of jobs": (
        "service/training/rows.py",
        "import service.adapters.names",
    ),
    "serving never reads jobs": ("service/serving/service.py", "import service.jobs.lifecycle"),
    "no cycles between rooms": ("service/errors.py", "import service.serving.engine"),
}


def lint(folder: Path) -> str:
    """Run import-linter on the tree in `folder`."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the code that may be broken."""
    without = shutil.ignore_patterns("__pycache__", "bundled")
    for package in ("service", "adapters_store"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=without)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_contract_is_kept_and_has_a_breach_below(tree: Path) -> None:
    report = lint(tree)
    kept = {line.removesuffix(" KEPT") for line in report.splitlines() if line.endswith(" KEPT")}
    assert kept == set(BREACHES), report


@pytest.mark.parametrize("contract", BREACHES)
def test_a_breach_is_reported(tree: Path, contract: str) -> None:
    file, line = BREACHES[contract]
    path = tree / file
    path.write_text(path.read_text() + f"\n{line}\n")
    assert f"{contract} BROKEN" in lint(tree)
