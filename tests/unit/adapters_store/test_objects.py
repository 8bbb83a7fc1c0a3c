"""What lies in object storage when processes die, race, or are told half of the truth."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError

from adapters_store import (
    InvalidAdapter,
    ObjectAdapterStore,
    Revision,
    RevisionNotFound,
    StoreUnavailable,
    checking,
)
from adapters_store.layout import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE
from tests.builders import a_peft_folder, an_origin
from tests.object_storage import Objects
from tests.unit.adapters_store.killing import asks_obstore, killed_at, meanwhile

LATER = 4e9


@pytest.fixture(params=["folder", "S3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "S3":
        return str(request.getfixturevalue("s3_url"))
    return f"file://{tmp_path}/objects"


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    return a_peft_folder(tmp_path / "staged")


def a_store(url: str, folder: Path) -> ObjectAdapterStore:
    """The store as a machine sees it whose cache is in `folder`."""
    return ObjectAdapterStore(url, folder / "cache", 1 << 30)


def publish(url: str, folder: Path, staged: Path) -> Revision:
    return a_store(url, folder).publish("acme", "desk", staged, an_origin())


def publish_elsewhere(environment: dict[str, str], url: str, folder: Path, staged: Path) -> None:
    os.environ.update(environment)
    publish(url, folder, staged)


def delete_elsewhere(environment: dict[str, str], url: str, folder: Path) -> None:
    os.environ.update(environment)
    store = a_store(url, folder)
    for ref in store.list("acme"):
        store.delete(ref)


def aws() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


def names(url: str) -> list[str]:
    return sorted(key.rpartition("/")[2] for key in Objects(url).all())


def test_a_publish_killed_at_any_step_leaves_a_whole_revision_or_none(
    url: str, staged: Path, tmp_path: Path
) -> None:
    seen, digests, torn = [], set(), 0
    for step in count():
        machine = tmp_path / str(step)
        action = (publish_elsewhere, aws(), url, machine, staged)
        killed = killed_at(step, *action, counted=asks_obstore)
        store = a_store(url, machine)
        seen.append(len(list(store.list("acme"))))
        assert list(checking.check(store, now=0)) == []

        torn += len(list(checking.collect(store, LATER)))
        digests.add(publish(url, machine, staged).ref.digest)
        assert names(url) == [CONFIG_FILE, WEIGHTS_FILE, MANIFEST_FILE]
        if not killed:
            break
        delete_elsewhere({}, url, machine)

    assert step > 6
    assert (seen[0], seen[-1]) == (0, 1)
    assert seen == sorted(seen), "once visible, it stays"
    assert torn == 2, "killed after the weights, and after the config"
    assert len(digests) == 1


def test_a_delete_killed_at_any_step_leaves_a_whole_revision_or_none(
    url: str, staged: Path, tmp_path: Path
) -> None:
    seen = []
    for step in count():
        machine = tmp_path / str(step)
        published = publish(url, machine, staged)
        action = (delete_elsewhere, aws(), url, machine)
        killed = killed_at(step, *action, counted=asks_obstore)
        store = a_store(url, tmp_path / f"other-{step}")
        seen.append(len(list(store.list("acme"))))
        assert [store.open(ref).ref for ref in store.list("acme")] in ([], [published.ref])

        list(checking.collect(store, LATER))
        assert names(url) == ([CONFIG_FILE, WEIGHTS_FILE, MANIFEST_FILE] if seen[-1] else [])
        if not killed:
            break

    assert seen == sorted(seen, reverse=True), "once gone, it stays gone"
    assert set(seen) == {0, 1}


def test_a_revision_deleted_at_any_moment_of_an_open_is_whole_or_not_found(
    url: str, staged: Path, tmp_path: Path
) -> None:
    for step in count():
        ref = publish(url, tmp_path, staged).ref
        reader = a_store(url, tmp_path / f"other-{step}")
        delete = partial(a_store(url, tmp_path).delete, ref)
        with meanwhile(step, delete, asks_obstore) as deleted:
            try:
                assert reader.open(ref).ref == ref
            except RevisionNotFound:
                assert deleted
        if not deleted:
            break
    assert step > 3


def test_machines_that_publish_the_same_at_once_leave_one_upload(
    url: str, staged: Path, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(6) as pool:
        machines = [tmp_path / str(number) for number in range(6)]
        published = list(pool.map(lambda machine: publish(url, machine, staged), machines))

    assert len({revision.ref for revision in published}) == 1
    assert len({(r.path / MANIFEST_FILE).read_bytes() for r in published}) == 1
    assert names(url) == [CONFIG_FILE, WEIGHTS_FILE, MANIFEST_FILE]


def test_a_manifest_whose_first_answer_was_lost_is_known_as_ones_own(
    url: str, staged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(put: Any, *args: Any, **options: Any) -> None:
        put(*args, **options)
        if options.get("mode") == "create":
            raise AlreadyExistsError("the second try found what the first had written")

    monkeypatch.setattr(obstore, "put", partial(twice, obstore.put))

    published = publish(url, tmp_path, staged)

    assert a_store(url, tmp_path / "other").open(published.ref).ref == published.ref


def test_what_is_being_uploaded_is_neither_an_orphan_nor_collected(
    url: str, staged: Path, tmp_path: Path
) -> None:
    publish(url, tmp_path, staged)
    objects, store = Objects(url), a_store(url, tmp_path)
    objects.remove(objects.key(next(store.list("acme")), MANIFEST_FILE))
    written = next(iter(store.orphans("acme", LATER)))

    assert written.where.startswith("acme/desk/")
    assert list(store.orphans("acme", before=0)) == []
    assert list(checking.collect(store, now=0)) == []
    assert names(url) == [CONFIG_FILE, WEIGHTS_FILE]
    assert list(checking.collect(store, LATER)) == [written.where]
    assert names(url) == []


def test_nothing_is_collected_while_the_manifest_cannot_be_read(
    url: str, staged: Path, tmp_path: Path
) -> None:
    published = publish(url, tmp_path, staged)
    objects, store = Objects(url), a_store(url, tmp_path)
    objects.write(objects.key(published.ref, MANIFEST_FILE), b"{}")

    assert [finding.what[:7] for finding in checking.check(store, LATER)] == ["damaged"]
    assert list(checking.collect(store, LATER)) == []

    store.delete(published.ref)
    assert len(list(checking.collect(store, LATER))) == 1
    assert names(url) == []


def test_foreign_objects_are_left_alone(url: str, staged: Path, tmp_path: Path) -> None:
    store, objects = a_store(url, tmp_path), Objects(url)
    foreign = ["Other/a/b", "acme/README.md", f"acme/desk/{'0' * 64}/x/notes.txt"]
    for key in foreign:
        objects.write(key, b"theirs")

    assert list(store.list("acme")) == []
    assert list(checking.check(store, LATER)) == list(checking.collect(store, LATER)) == []
    assert objects.all() == sorted(foreign)


def test_a_manifest_cannot_lead_out_of_its_revision(url: str, staged: Path, tmp_path: Path) -> None:
    published = publish(url, tmp_path, staged)
    objects = Objects(url)
    key = objects.key(published.ref, MANIFEST_FILE)
    content = objects.read(key).decode()
    upload = content.partition('"upload": "')[2][:32]
    objects.write(key, content.replace(upload, "../../../globex").encode())

    with pytest.raises(InvalidAdapter, match="damaged"):
        a_store(url, tmp_path).open(published.ref)


def test_a_probe_leaves_nothing(url: str, tmp_path: Path) -> None:
    a_store(url, tmp_path).probe()
    assert names(url) == []


def test_a_bucket_that_is_not_there_is_unavailable(s3_url: str, tmp_path: Path) -> None:
    store = a_store("s3://nobodys-bucket/adapters", tmp_path)
    with pytest.raises(StoreUnavailable, match="object store"):
        store.probe()


def test_erasing_takes_torn_uploads_and_copies_whose_objects_are_gone(
    url: str, staged: Path, tmp_path: Path
) -> None:
    store, objects = a_store(url, tmp_path), Objects(url)
    published = store.publish("acme", "desk", staged, an_origin())
    torn = f"acme/desk/{'0' * 64}/{'1' * 32}/{WEIGHTS_FILE}"
    objects.write(torn, b"half")
    objects.remove(objects.key(published.ref, MANIFEST_FILE))

    store.erase("acme")

    assert objects.all() == []
    assert not published.path.exists()
