"""A real `lorehouse serve`: real processes, the bundled base, a real SQLite file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for a module's tests, ready to train and to answer."""
    with Server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Rows that teach nothing in particular."""
    from tests.e2e.server import write_rows

    return write_rows(tmp_path / "rows.jsonl", [("What colour is it?", "blue")] * 40)
