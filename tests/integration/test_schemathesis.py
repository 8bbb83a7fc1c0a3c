"""What Schemathesis finds, by the OpenAPI document, in a server on a real socket: nothing.

Every check of it is on: no server error, no answer that is not documented by status, content type,
headers and schema, nothing invalid taken, nothing valid refused (see `tests/schemathesis.toml`).

`--hypothesis-profile=long` asks 2,000 times an operation, from a random seed.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from adapters_store import AdapterStore
from service.app import create_app
from service.base.description import BaseDescription
from service.settings import Settings
from tests.conftest import ADMIN_KEY
from tests.fakes.engine import FakeEngine
from tests.integration.live import key_of, serving

pytestmark = pytest.mark.sqlite("what it explores is the document, and time is short")

ROOT = Path(__file__).parents[2]
OPERATORS = "^/(v1/admin|metrics)"
LONG = hypothesis.settings.get_current_profile_name() == "long"
BUDGET = ["--max-examples", "2000"] if LONG else ["--max-examples", "6", "--seed", "1"]


@pytest.fixture
def url(settings: Settings, base: BaseDescription, store: AdapterStore) -> Iterator[str]:
    """A server of its own: its database is used by its thread alone."""
    with serving(create_app(settings, base=base, engine=FakeEngine(store), store=store)) as url:
        yield url


@pytest.mark.timeout(3600 if LONG else 300)
def test_a_tenants_operations_keep_to_the_document(url: str, tmp_path: Path) -> None:
    explore(url, key_of(url, ADMIN_KEY, "acme"), tmp_path, "--exclude-path-regex")


@pytest.mark.timeout(3600 if LONG else 300)
def test_the_operators_operations_keep_to_the_document(url: str, tmp_path: Path) -> None:
    explore(url, ADMIN_KEY, tmp_path, "--include-path-regex")


def explore(url: str, key: str, folder: Path, which: str) -> None:
    """Run Schemathesis as from the command line."""
    command = [sys.executable, "-m", "schemathesis.cli"]
    command += ["--config-file", str(ROOT / "tests" / "schemathesis.toml")]
    command += ["run", str(ROOT / "openapi" / "openapi.json"), "--url", url, which, OPERATORS]
    command += ["--header", f"Authorization: Bearer {key}", *BUDGET]
    environment = {
        "PATH": "",
        "PYTHONPATH": str(ROOT),
        "SCHEMATHESIS_HOOKS": "tests.schemathesis_checks",
    }
    done = subprocess.run(
        [*command, "--no-color", "--warnings", "off"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
