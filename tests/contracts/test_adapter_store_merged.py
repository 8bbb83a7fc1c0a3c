"""What every adapter store promises of the models that revisions were merged into."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from adapters_store import (
    AdapterStore,
    InvalidAdapter,
    InvalidName,
    MergedManifest,
    MergedModel,
    MergedRef,
    RevisionNotFound,
    RevisionRef,
    checking,
    layout,
)
from tests.builders import a_merge_origin, a_model_folder, a_peft_folder, an_origin
from tests.contracts.conftest import clock
from tests.contracts.test_adapter_store_checking import LATER
from tests.contracts.test_adapter_store_refusals import cut, flip, lengthen, overwrite
from tests.object_storage import Objects

MERGE, OTHER = "merge-" + "0" * 24, "merge-" + "1" * 24
SHARD, CONFIG, MANIFEST = "model-00001-of-00001.safetensors", "config.json", "manifest.json"
FILES = ["chat_template.jinja", CONFIG, SHARD]

Harm = Callable[[MergedRef, str, Callable[[Path], None]], None]


@pytest.fixture
def ref(store: AdapterStore, staged: Path) -> RevisionRef:
    """A revision to merge."""
    return store.publish("acme", "desk", staged, an_origin()).ref


@pytest.fixture
def harm(kind: str, url: str, tmp_path: Path) -> Harm:
    """Change a file of a merged model where the store keeps it."""

    def file(ref: MergedRef, name: str, change: Callable[[Path], None]) -> None:
        change(tmp_path.joinpath("store", *layout.parts(ref), name))

    def an_object(ref: MergedRef, name: str, change: Callable[[Path], None]) -> None:
        objects = Objects(url)
        objects.change(objects.key(ref, name), change, tmp_path / "changing")

    if kind == "memory":
        pytest.skip("nobody else can change it there")
    return file if kind == "filesystem" else an_object


def publish(store: AdapterStore, ref: RevisionRef, merge: str = MERGE) -> MergedModel:
    with store.stage() as folder:
        return store.publish_merged(merged(ref, merge), a_model_folder(folder), a_merge_origin())


def merged(ref: RevisionRef, merge: str = MERGE) -> MergedRef:
    return MergedRef(ref.tenant, ref.adapter, ref.digest, merge)


def content(model: MergedModel) -> dict[str, bytes]:
    return {name: b"".join(model.read(name)) for name in model.manifest.files}


def test_a_merged_model_is_read_as_it_was_published(
    store: AdapterStore, ref: RevisionRef, tmp_path: Path
) -> None:
    published = publish(store, ref)
    opened = store.open_merged(merged(ref))

    assert opened.manifest == published.manifest
    assert isinstance(opened.manifest, MergedManifest)
    assert opened.manifest.ref == merged(ref)
    assert opened.manifest.ref.revision == ref
    assert opened.manifest.origin == a_merge_origin()
    assert opened.manifest.created_at == int(clock())
    expected = {path.name: path.read_bytes() for path in a_model_folder(tmp_path / "m").iterdir()}
    assert content(opened) == expected
    assert sorted(expected) == FILES
    assert list(store.list_merged("acme")) == [merged(ref)]
    assert list(store.list("acme")) == [ref], "it is no revision"
    assert store.open(ref).ref == ref, "and the revision opens as before"
    assert list(checking.check(store, LATER)) == []


def test_publishing_under_a_name_that_is_taken_leaves_what_is_there(
    store: AdapterStore, ref: RevisionRef
) -> None:
    first = publish(store, ref)
    with store.stage() as folder:
        a_model_folder(folder, size=10)
        again = store.publish_merged(merged(ref), folder, a_merge_origin(method="nf4"))

    assert again.manifest == first.manifest
    assert list(checking.check(store, LATER)) == []


def test_many_that_publish_one_at_once_leave_one(store: AdapterStore, ref: RevisionRef) -> None:
    barrier = threading.Barrier(6)

    def publish_too(_: int) -> MergedManifest:
        with store.stage() as folder:
            a_model_folder(folder)
            barrier.wait()
            return store.publish_merged(merged(ref), folder, a_merge_origin()).manifest

    with ThreadPoolExecutor(6) as pool:
        manifests = list(pool.map(publish_too, range(6)))

    assert all(manifest == manifests[0] for manifest in manifests)
    assert list(checking.check(store, LATER)) == []


def test_there_is_none_without_its_revision(store: AdapterStore, ref: RevisionRef) -> None:
    publish(store, ref)
    publish(store, ref, OTHER)
    model = store.open_merged(merged(ref))

    store.delete(ref)

    with pytest.raises(RevisionNotFound):
        store.open_merged(merged(ref))
    with pytest.raises(RevisionNotFound):
        store.delete(merged(ref))
    with pytest.raises(RevisionNotFound):
        publish(store, ref)
    assert list(store.list_merged("acme")) == []
    assert list(checking.check(store, LATER)) == []
    assert model.manifest.ref == merged(ref)


def test_one_is_deleted_and_the_others_stay(store: AdapterStore, ref: RevisionRef) -> None:
    publish(store, ref)
    kept = publish(store, ref, OTHER)

    store.delete(merged(ref))

    for call in (store.open_merged, store.delete):
        with pytest.raises(RevisionNotFound):
            call(merged(ref))
    assert list(store.list_merged("acme")) == [merged(ref, OTHER)]
    assert content(store.open_merged(merged(ref, OTHER))) == content(kept)
    assert store.open(ref).ref == ref
    assert list(checking.check(store, LATER)) == []
    assert publish(store, ref).manifest.ref == merged(ref)


def test_a_tenant_sees_its_own_alone(store: AdapterStore, staged: Path, ref: RevisionRef) -> None:
    theirs = store.publish("globex", "desk", staged, an_origin()).ref
    publish(store, ref)
    publish(store, theirs)

    assert list(store.list_merged("globex")) == [merged(theirs)]
    assert list(store.list_merged("nobody")) == []
    store.delete(theirs)
    assert list(store.list_merged("acme")) == [merged(ref)]


@pytest.mark.parametrize("damage", [cut, lengthen, Path.unlink])
@pytest.mark.parametrize("name", [CONFIG, SHARD])
def test_a_missing_file_or_one_of_another_size_is_refused_at_once(
    store: AdapterStore, ref: RevisionRef, harm: Harm, name: str, damage: Callable[[Path], None]
) -> None:
    publish(store, ref)
    harm(merged(ref), name, damage)

    with pytest.raises(InvalidAdapter, match=name):
        store.open_merged(merged(ref))


def test_a_changed_file_is_refused_before_all_of_it_is_read(
    store: AdapterStore, ref: RevisionRef, harm: Harm
) -> None:
    expected = content(publish(store, ref))[SHARD]
    harm(merged(ref), SHARD, flip)

    read: list[bytes] = []
    reading = store.open_merged(merged(ref)).read(SHARD)
    with pytest.raises(InvalidAdapter, match=f"{SHARD} changed"):
        read.extend(reading)
    assert len(b"".join(read)) < len(expected)
    [found] = checking.check(store, LATER)
    assert found.where == f"acme/desk/{ref.digest}/{MERGE}"
    assert SHARD in found.what


@pytest.mark.parametrize("text", [b"", b"{}", b"\xff"])
def test_a_damaged_manifest_does_not_open(
    store: AdapterStore, ref: RevisionRef, harm: Harm, text: bytes
) -> None:
    publish(store, ref)
    harm(merged(ref), MANIFEST, lambda path: overwrite(path, text))

    with pytest.raises(InvalidAdapter, match="damaged"):
        store.open_merged(merged(ref))
    assert [f.what[:8] for f in checking.check(store, LATER)] == ["damaged:"]
    assert list(checking.collect(store, LATER)) == []


def test_a_manifest_of_another_one_does_not_open(
    store: AdapterStore, ref: RevisionRef, harm: Harm
) -> None:
    publish(store, ref)
    publish(store, ref, OTHER)
    harm(
        merged(ref),
        MANIFEST,
        lambda path: overwrite(path, path.read_bytes().replace(MERGE.encode(), OTHER.encode())),
    )

    with pytest.raises(InvalidAdapter, match="another merged model"):
        store.open_merged(merged(ref))


def test_files_without_a_manifest_are_an_orphan(
    store: AdapterStore, ref: RevisionRef, harm: Harm
) -> None:
    publish(store, ref)
    harm(merged(ref), MANIFEST, Path.unlink)

    assert list(store.list_merged("acme")) == []
    assert list(checking.check(store, now=0)) == []
    [found] = checking.check(store, LATER)
    assert found.where.startswith(f"acme/desk/{ref.digest}/{MERGE}")
    assert list(checking.collect(store, LATER)) == [found.where]
    assert list(checking.check(store, LATER)) == []
    assert store.open(ref).ref == ref


@pytest.mark.parametrize(
    "merge", ["", "..", "merge-", MERGE + "0", MERGE.upper(), "manifest.json", "0" * 32, "a/b"]
)
def test_a_hostile_merge_is_refused(store: AdapterStore, ref: RevisionRef, merge: str) -> None:
    wrong = merged(ref, merge)
    for call in (store.open_merged, store.delete):
        with pytest.raises(InvalidName):
            call(wrong)
    with store.stage() as folder, pytest.raises(InvalidName):
        store.publish_merged(wrong, a_model_folder(folder), a_merge_origin())


@pytest.mark.parametrize("name", ["manifest.json", ".hidden", "a b", "x" * 200])
def test_files_that_a_merged_model_cannot_have_are_refused(
    store: AdapterStore, ref: RevisionRef, name: str
) -> None:
    with store.stage() as folder:
        a_model_folder(folder)
        (folder / name).write_text("")
        with pytest.raises(InvalidAdapter, match="cannot have"):
            store.publish_merged(merged(ref), folder, a_merge_origin())
    assert list(store.list_merged("acme")) == []


def test_only_plain_files_are_published(store: AdapterStore, ref: RevisionRef) -> None:
    with store.stage() as folder:
        a_model_folder(folder)
        (folder / "deep").mkdir()
        with pytest.raises(InvalidAdapter, match="deep"):
            store.publish_merged(merged(ref), folder, a_merge_origin())
    with store.stage() as empty, pytest.raises(InvalidAdapter):
        store.publish_merged(merged(ref), empty, a_merge_origin())


def test_two_revisions_keep_their_merged_models_apart(
    store: AdapterStore, ref: RevisionRef, tmp_path: Path
) -> None:
    other = store.publish("acme", "desk", a_peft_folder(tmp_path / "o", seed=1), an_origin()).ref
    publish(store, ref)
    publish(store, other)

    assert list(store.list_merged("acme")) == sorted([merged(ref), merged(other)])
    store.delete(other)
    assert list(store.list_merged("acme")) == [merged(ref)]


def test_a_merged_model_counts_and_goes_with_its_tenant(
    store: AdapterStore, ref: RevisionRef
) -> None:
    before = store.size("acme")
    model = publish(store, ref)
    added = sum(entry.bytes for entry in model.manifest.files.values())
    assert before + added <= store.size("acme") < before + added + 10_000

    store.erase("acme")

    assert list(store.list_merged("acme")) == []
    assert store.size("acme") == 0
    assert list(checking.check(store, LATER)) == []
