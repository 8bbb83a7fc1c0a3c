"""Copies of revisions on the local disk: verified, bounded, and never taken from a reader."""

import gc
import shutil
from pathlib import Path

import obstore
import pytest

from adapters_store import InvalidAdapter, ObjectAdapterStore, Revision, RevisionRef
from adapters_store.layout import WEIGHTS_FILE
from tests.builders import a_peft_folder, an_origin
from tests.object_storage import Objects


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/objects"


@pytest.fixture
def refs(url: str, tmp_path: Path) -> list[RevisionRef]:
    """Three revisions of one size, published from another machine."""
    store = ObjectAdapterStore(url, tmp_path / "elsewhere", 1 << 30)
    folders = [a_peft_folder(tmp_path / str(seed), seed=seed) for seed in range(3)]
    return [store.publish("acme", "desk", folder, an_origin()).ref for folder in folders]


def a_store(url: str, tmp_path: Path, limit: int) -> ObjectAdapterStore:
    return ObjectAdapterStore(url, tmp_path / "cache", limit)


def copies(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").iterdir() if not path.name.startswith(".")]


def size(revision: Revision) -> int:
    return sum(path.stat().st_size for path in revision.path.iterdir())


def test_what_is_read_stays_and_goes_once_it_is_let_go(
    url: str, tmp_path: Path, refs: list[RevisionRef]
) -> None:
    store = a_store(url, tmp_path, 0)
    held = [store.open(ref) for ref in refs[:2]]
    assert all((revision.path / WEIGHTS_FILE).exists() for revision in held)

    kept = held.pop(0)
    held.clear()
    gc.collect()
    last = store.open(refs[2])

    assert sorted(copies(tmp_path)) == sorted([kept.path, last.path])


def test_another_process_does_not_take_away_what_is_read_here(
    url: str, tmp_path: Path, refs: list[RevisionRef]
) -> None:
    held = a_store(url, tmp_path, 1 << 30).open(refs[0])
    other = a_store(url, tmp_path, 0)

    for ref in refs[1:]:
        other.open(ref)

    assert (held.path / WEIGHTS_FILE).exists()
    assert len(copies(tmp_path)) == 2


def test_the_least_recently_used_copy_makes_room(
    url: str, tmp_path: Path, refs: list[RevisionRef]
) -> None:
    each = size(a_store(url, tmp_path, 1 << 30).open(refs[0]))
    store = a_store(url, tmp_path, int(2.5 * each))
    paths = [store.open(ref).path for ref in (refs[0], refs[1])]
    store.open(refs[0])

    paths.append(store.open(refs[2]).path)

    assert sorted(copies(tmp_path)) == sorted([paths[0], paths[2]])
    assert store.open(refs[1]).path == paths[1], "and it comes back"


def test_a_copy_is_not_downloaded_again(
    url: str, tmp_path: Path, refs: list[RevisionRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = a_store(url, tmp_path, 1 << 30).open(refs[0])
    monkeypatch.delattr(obstore, "get_range")

    assert a_store(url, tmp_path, 1 << 30).open(refs[0]) == first


def test_a_copy_that_changed_on_this_disk_is_replaced(
    url: str, tmp_path: Path, refs: list[RevisionRef]
) -> None:
    store = a_store(url, tmp_path, 1 << 30)
    weights = store.open(refs[0]).path / WEIGHTS_FILE
    good = weights.read_bytes()
    weights.chmod(0o600)
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))

    assert (store.open(refs[0]).path / WEIGHTS_FILE).read_bytes() == good


def test_an_altered_object_is_refused_and_leaves_no_copy(
    url: str, tmp_path: Path, refs: list[RevisionRef]
) -> None:
    objects = Objects(url)
    key = objects.key(refs[0], WEIGHTS_FILE)
    good = objects.read(key)
    objects.write(key, good[:-1] + bytes([good[-1] ^ 1]))

    with pytest.raises(InvalidAdapter, match="changed since it was published"):
        a_store(url, tmp_path, 1 << 30).open(refs[0])

    assert copies(tmp_path) == []
    assert list((tmp_path / "cache" / ".staging").iterdir()) == []


def test_a_revision_published_anew_does_not_open_with_the_old_origin(
    url: str, tmp_path: Path, refs: list[RevisionRef]
) -> None:
    here, elsewhere = a_store(url, tmp_path, 1 << 30), ObjectAdapterStore(url, tmp_path / "e", 0)
    old = here.open(refs[0])
    elsewhere.delete(refs[0])
    elsewhere.publish("acme", "desk", tmp_path / "0", an_origin(job_id="ftjob-2"))

    new = here.open(refs[0])

    assert new.ref == old.ref
    assert new.manifest.origin.job_id == "ftjob-2"
    assert (old.path / WEIGHTS_FILE).exists()


def test_the_cache_may_be_lost_at_any_time(
    url: str, tmp_path: Path, refs: list[RevisionRef]
) -> None:
    store = a_store(url, tmp_path, 1 << 30)
    path = store.open(refs[0]).path
    shutil.rmtree(path)

    assert (store.open(refs[0]).path / WEIGHTS_FILE).exists()
