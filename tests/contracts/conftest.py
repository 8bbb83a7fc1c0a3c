"""Every implementation, for the promises that all of them make."""

from pathlib import Path

import pytest

from adapters_store import AdapterStore, FilesystemAdapterStore, MemoryAdapterStore
from tests.builders import a_peft_folder


@pytest.fixture(params=["filesystem", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> AdapterStore:
    """Each adapter store, at a fixed time."""
    if request.param == "memory":
        return MemoryAdapterStore(clock=lambda: 1_700_000_000.5)
    return FilesystemAdapterStore(tmp_path / "store", clock=lambda: 1_700_000_000.5)


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    """A good PEFT folder."""
    return a_peft_folder(tmp_path / "staged")
