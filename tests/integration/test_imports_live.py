"""Imports over a real socket: everything bad is refused by name, and leaves nothing at all."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import nan
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as how
from msgspec import Struct

from adapters_store import AdapterStore, RevisionRef
from service.adapters import storing
from service.app import create_app
from service.errors import Conflict
from service.settings import Settings
from tests.archives import CORRUPTIONS, Corruption, Folder, tar
from tests.builders import an_origin
from tests.conftest import ADMIN_KEY, SECRET
from tests.fakes.engine import FakeEngine
from tests.integration.importing import (
    IMPORT,
    an_adapter,
    archive_form,
    everything,
    refused_and_nothing_left,
)
from tests.integration.live import eventually, key_of, serving
from tests.strategies import mutations

LIMIT = 100 << 20
REFUSALS = {400, 413, 422}


class Live(Struct, frozen=True):
    """A server with a tenant, and what it stands on."""

    client: httpx.Client
    settings: Settings
    store: AdapterStore

    def asking(self, archive: bytes, **fields: str) -> Callable[[], httpx.Response]:
        return lambda: self.client.post(IMPORT, **archive_form(archive, **fields))


@contextmanager
def living(
    folder: Path,
    empty_database: Path,
    kind: Callable[..., FakeEngine] = FakeEngine,
    adapter_store: str = "",
) -> Iterator[Live]:
    folder.mkdir()
    shutil.copy(empty_database, folder / "lorehouse.db")
    settings = Settings(
        data_dir=folder,
        admin_key=ADMIN_KEY,
        secret=SECRET,
        max_import_bytes=LIMIT,
        adapter_store=adapter_store,
    )
    store = storing.adapter_store(settings)
    with serving(create_app(settings, store=store, engine=kind(store))) as url:
        headers = {"authorization": f"Bearer {key_of(url, ADMIN_KEY, 'acme')}"}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
            yield Live(client, settings, store)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Live]:
    with living(tmp_path_factory.mktemp("live") / "data", empty_database) as live:
        yield live


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return an_adapter(tmp_path_factory.mktemp("adapter") / "made")


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda one: one.name)
def test_a_corrupt_archive_is_refused_by_name_and_leaves_nothing(
    live: Live, good: Folder, corruption: Corruption
) -> None:
    error = refused_and_nothing_left(
        live.settings, live.asking(corruption.spoil(good), alias="production"), 400
    )
    assert (error["param"], error["code"]) == ("file", "invalid_adapter")
    assert corruption.reason in error["message"]


@given(change=mutations())
@how(max_examples=60, deadline=None)
def test_no_change_of_an_archive_does_more_than_refuse_it(
    live: Live, good: Folder, change: Any
) -> None:
    before = everything(live.settings)
    answer = live.asking(change(tar(good)))()
    if answer.is_success:
        model = answer.json()["model"]
        assert live.client.delete(f"/v1/models/{model}").is_success
        assert everything(live.settings)[0] == before[0]
    else:
        assert answer.status_code in REFUSALS, answer.text
        assert answer.json()["error"]["message"]
        assert everything(live.settings) == before


def test_one_that_is_too_large_is_refused_before_its_end(live: Live) -> None:
    error = refused_and_nothing_left(live.settings, live.asking(bytes(LIMIT + 1)), 413)
    assert "LOREHOUSE_MAX_IMPORT_BYTES" in error["message"]


def test_a_client_that_goes_away_leaves_nothing(live: Live, good: Folder) -> None:
    before = everything(live.settings)
    body = live.client.build_request("POST", IMPORT, **archive_form(tar(good)))
    content = body.read()

    def cut() -> Iterator[bytes]:
        yield content[: len(content) // 2]
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        live.client.post(IMPORT, headers=body.headers, content=cut())
    eventually(lambda: everything(live.settings) == before)


class Indifferent(FakeEngine):
    """Answers as the base, whatever it is asked for."""

    async def score(
        self, revision: RevisionRef | None, prompts: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        return await super().score(None, prompts)


class Overflowing(FakeEngine):
    """Computes nothing but NaN with any adapter."""

    async def score(
        self, revision: RevisionRef | None, prompts: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        scores = await super().score(revision, prompts)
        return scores if revision is None else [[nan for _ in each] for each in scores]


class Small(FakeEngine):
    """Has no room for any adapter."""

    async def score(
        self, revision: RevisionRef | None, prompts: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        if revision is not None:
            raise Conflict("the model cannot be loaded: no room", code="adapter_not_loadable")
        return await super().score(revision, prompts)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Indifferent, "changes_base"), (Overflowing, "finite"), (Small, "loads: ")],
)
def test_what_the_engine_rejects_leaves_nothing_and_harms_no_equal_revision(
    tmp_path: Path,
    empty_database: Path,
    good: Folder,
    kind: Callable[..., FakeEngine],
    reason: str,
) -> None:
    with living(tmp_path / "data", empty_database, kind) as live:
        error = refused_and_nothing_left(live.settings, live.asking(tar(good)), 422)
        assert error["code"] == "publish_gate_rejected"
        assert reason in error["message"]
        # As another process publishes it meanwhile, say.
        an_adapter(tmp_path / "made")
        ref = live.store.publish("acme", "brought", tmp_path / "made", an_origin()).ref
        refused_and_nothing_left(live.settings, live.asking(tar(good)), 422)
        assert live.store.open(ref).ref == ref


def test_object_storage_takes_and_gives_adapters_as_well(
    tmp_path: Path, empty_database: Path, good: Folder
) -> None:
    objects = tmp_path / "objects"
    with living(tmp_path / "data", empty_database, adapter_store=f"file://{objects}") as live:
        made = live.asking(tar(good))().json()
        revision = f"/v1/adapters/brought/revisions/{made['digest']}"
        exported = live.client.get(f"{revision}/export").content
        before = sorted(path for path in objects.rglob("*") if path.is_file())
        assert live.asking(exported)().json() == made
        refused_and_nothing_left(live.settings, live.asking(tar(good)[:5000]), 400)
        assert sorted(path for path in objects.rglob("*") if path.is_file()) == before
        assert [ref.adapter for ref in live.store.list("acme")] == ["brought"]
