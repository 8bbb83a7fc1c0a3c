"""Every implementation, for the promises that all of them make."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapters_store import (
    AdapterStore,
    FilesystemAdapterStore,
    MemoryAdapterStore,
    ObjectAdapterStore,
    Revision,
)
from service.serving.vllm.options import Options
from tests.builders import a_peft_folder
from tests.object_storage import Objects
from tests.vllm_core import Core, core

CACHE_BYTES = 1 << 30
KV_TOKENS = 1 << 16

Harm = Callable[[Revision, str, Callable[[Path], None]], None]


def clock() -> float:
    """A fixed time."""
    return 1_700_000_000.5


@pytest.fixture(params=["filesystem", "memory", "objects in a folder", "objects in S3"])
def kind(request: pytest.FixtureRequest) -> str:
    """Where a store keeps its things."""
    return str(request.param)


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the objects are, if the store is made of such."""
    if kind == "objects in S3":
        return str(request.getfixturevalue("s3_url"))
    return f"file://{tmp_path}/objects"


@pytest.fixture
def store(kind: str, url: str, tmp_path: Path) -> AdapterStore:
    """Each adapter store, at a fixed time."""
    if kind == "memory":
        return MemoryAdapterStore(clock)
    if kind == "filesystem":
        return FilesystemAdapterStore(tmp_path / "store", clock)
    return ObjectAdapterStore(url, tmp_path / "cache", CACHE_BYTES, clock)


@pytest.fixture
def harm(store: AdapterStore, url: str, tmp_path: Path) -> Harm:
    """Change a file of a revision where the store keeps it."""

    def file(revision: Revision, name: str, change: Callable[[Path], None]) -> None:
        change(revision.path / name)

    def an_object(revision: Revision, name: str, change: Callable[[Path], None]) -> None:
        objects = Objects(url)
        objects.change(objects.key(revision.ref, name), change, tmp_path / "changing")
        # Who has a copy that was verified has no need to look.
        shutil.rmtree(revision.path, ignore_errors=True)

    return an_object if isinstance(store, ObjectAdapterStore) else file


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    """A good PEFT folder."""
    return a_peft_folder(tmp_path / "staged")


@pytest.fixture(scope="session")
def vllm_core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    """vLLM on the tiny base, with the limits that the contract is tested with."""
    import torch

    from tests.contracts.engines import MAX_BATCH, MAX_RESIDENT
    from tests.fakes.tiny import tiny_base

    options = Options(
        max_resident=MAX_RESIDENT,
        max_batch=MAX_BATCH,
        max_lora_rank=16,
        # Others may be on a card, and what they do is nothing to measure a cache by.
        memory_share=0.05,
        kv_tokens=KV_TOKENS,
        sleeps=torch.cuda.is_available(),
    )
    with core(tiny_base(tmp_path_factory.mktemp("vllm")), options) as made:
        yield made
