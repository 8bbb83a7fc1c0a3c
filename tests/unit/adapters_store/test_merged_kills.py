"""A merged model whose publisher or remover is killed: it is whole, or nothing of it is left."""

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from adapters_store import (
    AdapterStore,
    MergedRef,
    RevisionNotFound,
    RevisionRef,
    checking,
    open_store,
)
from tests.builders import a_merge_origin, a_model_folder, a_peft_folder, an_origin
from tests.object_storage import Objects
from tests.unit.adapters_store.killing import Counted, asks_obstore, changes_files, killed_at
from tests.unit.adapters_store.test_objects import aws

LATER = 4e9
MERGE = "merge-" + "0" * 24


@pytest.fixture(params=["files", "objects in a folder", "objects in S3"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A path, or a URL."""
    if request.param == "objects in S3":
        return str(request.getfixturevalue("s3_url"))
    return f"{tmp_path}/store" if request.param == "files" else f"file://{tmp_path}/objects"


@pytest.fixture
def counted(where: str) -> Counted:
    """What is a step there."""
    return asks_obstore if "://" in where else changes_files


@pytest.fixture
def ref(where: str, tmp_path: Path) -> MergedRef:
    """A merge of a revision that is there."""
    return _ref(_revision(where, tmp_path))


def _revision(where: str, tmp_path: Path) -> RevisionRef:
    staged = a_peft_folder(tmp_path / "staged")
    return a_store(where, tmp_path).publish("acme", "desk", staged, an_origin()).ref


def _ref(revision: RevisionRef) -> MergedRef:
    return MergedRef(revision.tenant, revision.adapter, revision.digest, MERGE)


def a_store(where: str, machine: Path) -> AdapterStore:
    return open_store(where, machine / "cache", 1 << 30)


def merge(environment: dict[str, str], where: str, machine: Path, ref: MergedRef) -> None:
    os.environ.update(environment)
    store = a_store(where, machine)
    with store.stage() as folder:
        store.publish_merged(ref, a_model_folder(folder, size=1000), a_merge_origin())


def delete(environment: dict[str, str], where: str, machine: Path, ref: RevisionRef) -> None:
    os.environ.update(environment)
    a_store(where, machine).delete(ref)


def remains(where: str) -> list[str]:
    """Everything that lies in the store."""
    if "://" in where:
        return Objects(where).all()
    return sorted(str(path.relative_to(where)) for path in Path(where).rglob("*") if path.is_file())


def test_a_merge_killed_at_any_step_leaves_it_whole_or_not_and_the_retry_succeeds(
    where: str, counted: Counted, ref: MergedRef, tmp_path: Path
) -> None:
    before = remains(where)
    seen = []
    for step in count():
        machine = tmp_path / str(step)
        killed = killed_at(step, merge, aws(), where, machine, ref, counted=counted)
        store = a_store(where, machine)
        seen.append(list(store.list_merged("acme")))
        assert list(checking.check(store, now=0)) == []
        list(checking.collect(store, LATER))
        assert list(checking.check(store, LATER)) == []

        merge({}, where, machine, ref)
        store.open_merged(ref).verify()
        assert len(remains(where)) == len(before) + 4
        store.delete(ref)
        assert remains(where) == before
        if not killed:
            break

    assert step > 6
    assert (seen[0], seen[-1]) == ([], [ref])
    assert seen == sorted(seen), "once visible, it stays"


@pytest.mark.parametrize("whole", [lambda ref: ref, lambda ref: ref.revision])
def test_a_deletion_killed_at_any_step_leaves_nothing_that_is_not_collected(
    where: str,
    counted: Counted,
    ref: MergedRef,
    tmp_path: Path,
    whole: Callable[[MergedRef], RevisionRef],
) -> None:
    seen = []
    for step in count():
        machine = tmp_path / str(step)
        _revision(where, tmp_path)
        merge({}, where, machine, ref)
        killed = killed_at(step, delete, aws(), where, machine, whole(ref), counted=counted)
        store = a_store(where, machine)
        seen.append(len(list(store.list_merged("acme"))))
        assert list(checking.check(store, now=0)) == []

        list(checking.collect(store, LATER))
        assert list(checking.check(store, LATER)) == []
        if seen[-1] == 0:
            with pytest.raises(RevisionNotFound):
                store.open_merged(ref)
            assert not [name for name in remains(where) if MERGE in name]
        else:
            store.open_merged(ref).verify()
        if not killed:
            break

    assert seen == sorted(seen, reverse=True), "once gone, it stays gone"
    assert set(seen) == {0, 1}
