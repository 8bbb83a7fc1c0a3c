"""What the files on disk look like when processes die, race, or left things behind."""

import multiprocessing
import os
from collections.abc import Callable
from functools import partial
from itertools import count
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from adapters_store import (
    FilesystemAdapterStore,
    InvalidAdapter,
    Revision,
    RevisionNotFound,
    manifest,
)
from adapters_store.layout import WEIGHTS_FILE
from tests.builders import a_peft_folder, an_origin
from tests.unit.adapters_store.killing import killed_at, looks_at_files, meanwhile

SPAWN = multiprocessing.get_context("forkserver")


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    return a_peft_folder(tmp_path / "staged")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def publish(root: Path, staged: Path) -> Revision:
    return FilesystemAdapterStore(root).publish("acme", "desk", staged, an_origin())


def hidden(root: Path) -> list[Path]:
    return [path for folder in (".staging", ".trash") for path in (root / folder).iterdir()]


def test_a_publish_killed_at_any_step_leaves_a_whole_revision_or_none(
    root: Path, staged: Path
) -> None:
    store, seen = FilesystemAdapterStore(root), []
    for step in count():
        killed = killed_at(step, store.publish, "acme", "desk", staged, an_origin())
        seen.append([store.open(ref).ref.digest for ref in store.list("acme")])
        FilesystemAdapterStore(root)
        assert hidden(root) == []
        if not killed:
            break

    assert step > 40
    assert seen[0] == []
    assert len(seen[-1]) == 1
    assert all(visible in ([], seen[-1]) for visible in seen)
    assert seen == sorted(seen), "once visible, it stays"


def test_a_delete_killed_at_any_step_leaves_a_whole_revision_or_none(
    root: Path, staged: Path
) -> None:
    store, seen = FilesystemAdapterStore(root), []
    for step in count():
        published = publish(root, staged)
        killed = killed_at(step, store.delete, published.ref)
        visible = [store.open(ref) for ref in store.list("acme")]
        seen.append(len(visible))
        assert visible in ([], [published])
        FilesystemAdapterStore(root)
        assert hidden(root) == []
        if not killed:
            break

    assert step > 10
    assert seen == sorted(seen, reverse=True), "once gone, it stays gone"
    assert set(seen) == {0, 1}


def test_a_revision_deleted_at_any_moment_of_an_open_is_whole_or_not_found(
    root: Path, staged: Path
) -> None:
    for step in count():
        ref = publish(root, staged).ref
        delete = partial(FilesystemAdapterStore(root).delete, ref)
        reader = FilesystemAdapterStore(root)
        with meanwhile(step, delete, looks_at_files) as deleted:
            try:
                assert reader.open(ref).ref == ref
            except RevisionNotFound:
                assert deleted
        if not deleted:
            break
    assert step > 5


def _publish_together(barrier: Barrier, root: Path, staged: Path) -> None:
    store = FilesystemAdapterStore(root)
    barrier.wait()
    store.publish("acme", "desk", staged, an_origin())


def test_processes_that_publish_the_same_at_once_all_succeed(root: Path, staged: Path) -> None:
    barrier = SPAWN.Barrier(4)
    racers = [SPAWN.Process(target=_publish_together, args=(barrier, root, staged)) for _ in "1234"]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)

    assert [racer.exitcode for racer in racers] == [0, 0, 0, 0]
    assert len(list(FilesystemAdapterStore(root).list("acme"))) == 1
    assert hidden(root) == []


def test_publishing_onto_a_damaged_revision_says_so(root: Path, staged: Path) -> None:
    published = publish(root, staged)
    damage(published.path / WEIGHTS_FILE)

    with pytest.raises(InvalidAdapter, match="changed since it was published"):
        publish(root, staged)


def test_a_new_store_leaves_alone_what_another_is_writing(root: Path, staged: Path) -> None:
    with FilesystemAdapterStore(root).stage() as folder:
        (folder / "half").write_text("written")
        other = FilesystemAdapterStore(root)
        assert (folder / "half").read_text() == "written"
        assert list(other.list("acme")) == []


def test_what_a_dead_process_left_is_swept_at_the_next_start(root: Path) -> None:
    FilesystemAdapterStore(root)
    for folder in (".staging", ".trash"):
        (root / folder / "left" / "deep").mkdir(parents=True)
        (root / folder / "left" / "file").write_text("half")

    FilesystemAdapterStore(root)

    assert hidden(root) == []


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
@pytest.mark.parametrize("name", ["adapter_config.json", WEIGHTS_FILE])
def test_only_plain_files_are_published(
    root: Path, staged: Path, make: Callable[[Path], None], name: str
) -> None:
    (staged / name).unlink()
    make(staged / name)

    with pytest.raises(InvalidAdapter, match=name):
        publish(root, staged)


def test_an_open_after_the_first_does_not_read_the_weights_again(
    root: Path, staged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = publish(root, staged)
    store = FilesystemAdapterStore(root, clock=lambda: in_a_while)
    in_a_while = published.path.stat().st_ctime + 10
    store.open(published.ref)
    monkeypatch.delattr(manifest, "verify")

    assert store.open(published.ref) == published


def test_a_change_after_a_verified_open_is_noticed(root: Path, staged: Path) -> None:
    published = publish(root, staged)
    in_a_while = published.path.stat().st_ctime + 10
    store = FilesystemAdapterStore(root, clock=lambda: in_a_while)
    weights = published.path / WEIGHTS_FILE
    before = weights.stat()
    store.open(published.ref)

    damage(weights)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 1))

    with pytest.raises(InvalidAdapter, match="changed since it was published"):
        store.open(published.ref)


def damage(path: Path) -> None:
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
