"""What every adapter store promises, asked of each."""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from adapters_store import AdapterStore, InvalidName, RevisionNotFound, RevisionRef
from tests.builders import a_peft_folder, an_origin

CONFIG, WEIGHTS, MANIFEST = "adapter_config.json", "adapter_model.safetensors", "manifest.json"
HOSTILE = [
    "",
    ".",
    "..",
    "../acme",
    "/etc",
    "acme/../globex",
    "acme/x",
    "acme\\x",
    "acme\0",
    "acme\n",
    "Acme",
    "acme ",
    "-acme",
    ".staging",
    "a" * 65,
    "ácme",
    "acme\u2215x",
    "\u0430cme",
    "acme\u202e",
    "\uff0e\uff0e",
]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_published_revision_opens_with_its_files_and_manifest(
    store: AdapterStore, staged: Path
) -> None:
    weights = (staged / WEIGHTS).read_bytes()
    origin = an_origin(job_id="ftjob-1", step=3, metrics={"valid_loss": 1.5})

    published = store.publish("acme", "desk", staged, origin)
    opened = store.open(published.ref)

    assert opened == published
    assert opened.manifest.origin == origin
    assert opened.manifest.created_at == 1_700_000_000
    assert opened.manifest.ref == opened.ref == RevisionRef("acme", "desk", opened.ref.digest)
    assert sorted(bytes_of(opened.path)) == [CONFIG, WEIGHTS, MANIFEST]
    assert (opened.path / WEIGHTS).read_bytes() == weights


def test_only_the_adapter_is_published_whatever_else_lies_there(
    store: AdapterStore, staged: Path
) -> None:
    (staged / "README.md").write_text("see /home/someone")
    (staged / "training_args.bin").write_bytes(b"pickle")

    assert len(list(store.publish("acme", "desk", staged, an_origin()).path.iterdir())) == 3


def test_the_config_is_canonical_so_that_the_order_of_sets_does_not_make_a_revision(
    store: AdapterStore, tmp_path: Path
) -> None:
    one = a_peft_folder(tmp_path / "one", targets=["q_proj", "v_proj"])
    other = a_peft_folder(tmp_path / "other", base_model_name_or_path="/elsewhere", revision="main")
    document = json.loads((other / CONFIG).read_text())
    document["target_modules"] = ["v_proj", "q_proj"]
    (other / CONFIG).write_text(json.dumps(dict(reversed(document.items()))))

    first = store.publish("acme", "desk", one, an_origin())
    again = store.publish("acme", "desk", other, an_origin())

    assert first == again
    found = json.loads((first.path / CONFIG).read_text())
    assert found["base_model_name_or_path"] == "lorehouse-tiny"
    assert found["target_modules"] == ["q_proj", "v_proj"]


def test_publishing_equal_content_again_returns_the_revision_that_is_there(
    store: AdapterStore, staged: Path
) -> None:
    first = store.publish("acme", "desk", staged, an_origin(job_id="ftjob-1"))
    again = store.publish("acme", "desk", staged, an_origin(job_id="ftjob-2"))

    assert again == first
    assert again.manifest.origin.job_id == "ftjob-1"
    assert list(store.list("acme")) == [first.ref]


def test_other_weights_or_another_config_are_another_revision(
    store: AdapterStore, tmp_path: Path
) -> None:
    folders = [
        a_peft_folder(tmp_path / "a"),
        a_peft_folder(tmp_path / "b", seed=1),
        a_peft_folder(tmp_path / "c", lora_alpha=9),
        a_peft_folder(tmp_path / "d", rank=8),
    ]

    refs = {store.publish("acme", "desk", folder, an_origin()).ref for folder in folders}

    assert len(refs) == 4
    assert list(store.list("acme", "desk")) == sorted(refs)


def test_equal_bytes_of_two_tenants_share_neither_folder_nor_deletion(
    store: AdapterStore, staged: Path
) -> None:
    acme = store.publish("acme", "desk", staged, an_origin())
    globex = store.publish("globex", "desk", staged, an_origin())
    assert acme.ref != globex.ref
    assert acme.path != globex.path

    store.delete(acme.ref)

    assert list(store.list("acme")) == []
    assert list(store.list("globex")) == [globex.ref]
    assert store.open(globex.ref) == globex
    with pytest.raises(RevisionNotFound):
        store.open(acme.ref)


def test_a_tenant_sees_its_own_revisions_in_order(store: AdapterStore, tmp_path: Path) -> None:
    published = [
        store.publish(tenant, adapter, a_peft_folder(tmp_path / f"{seed}", seed=seed), an_origin())
        for seed, (tenant, adapter) in enumerate(
            [("acme", "b"), ("acme", "a"), ("acme-2", "a"), ("globex", "a"), ("acme", "b")]
        )
    ]
    acme = sorted(p.ref for p in published if p.ref.tenant == "acme")

    assert list(store.list("acme")) == acme
    assert list(store.list("acme", "b")) == [ref for ref in acme if ref.adapter == "b"]
    assert list(store.list("acme", "none")) == []
    assert list(store.list("nobody")) == []


def test_a_deleted_revision_is_gone_and_can_be_published_again(
    store: AdapterStore, staged: Path
) -> None:
    published = store.publish("acme", "desk", staged, an_origin())
    store.delete(published.ref)

    assert not published.path.exists()
    for call in (store.open, store.delete):
        with pytest.raises(RevisionNotFound):
            call(published.ref)
    assert store.publish("acme", "desk", staged, an_origin(job_id="ftjob-2")).ref == published.ref


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_refused_everywhere(store: AdapterStore, staged: Path, name: str) -> None:
    for tenant, adapter in ((name, "desk"), ("acme", name)):
        ref = RevisionRef(tenant, adapter, "0" * 64)
        calls: list[Callable[[], object]] = [
            lambda t=tenant, a=adapter: store.publish(t, a, staged, an_origin()),
            lambda r=ref: store.open(r),
            lambda r=ref: store.delete(r),
            lambda t=tenant, a=adapter: list(store.list(t, a)),
        ]
        for call in calls:
            with pytest.raises(InvalidName):
                call()
    for of_tenant in (store.size, store.erase):
        with pytest.raises(InvalidName):
            of_tenant(name)
    with pytest.raises(InvalidName):
        store.publish("acme", "desk", staged, an_origin(base=name))


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "A" * 64, "../" * 21 + "a", "g" * 64])
def test_a_hostile_digest_is_refused(store: AdapterStore, digest: str) -> None:
    for call in (store.open, store.delete):
        with pytest.raises(InvalidName):
            call(RevisionRef("acme", "desk", digest))


def test_what_happens_to_the_staged_folder_later_does_not_reach_the_revision(
    store: AdapterStore, staged: Path
) -> None:
    published = store.publish("acme", "desk", staged, an_origin())
    before = bytes_of(published.path)

    with (staged / WEIGHTS).open("r+b") as file:
        file.write(b"\0" * 64)
    (staged / CONFIG).unlink()

    assert bytes_of(store.open(published.ref).path) == before


def test_the_files_of_a_revision_are_read_only(store: AdapterStore, staged: Path) -> None:
    published = store.publish("acme", "desk", staged, an_origin())
    assert {path.stat().st_mode & 0o777 for path in published.path.iterdir()} == {0o444}


def test_a_stage_disappears_with_its_context_published_or_not(store: AdapterStore) -> None:
    with store.stage() as kept:
        published = store.publish("acme", "desk", a_peft_folder(kept / "adapter"), an_origin())
    with suppress(KeyError), store.stage() as failed:
        a_peft_folder(failed)
        raise KeyError

    assert not kept.exists()
    assert not failed.exists()
    assert list(store.list("acme")) == [published.ref]
    assert store.open(published.ref) == published


def test_equal_content_published_by_many_at_once_is_one_revision(
    store: AdapterStore, staged: Path
) -> None:
    barrier = threading.Barrier(8)

    def publish(_: int) -> object:
        barrier.wait()
        return store.publish("acme", "desk", staged, an_origin())

    with ThreadPoolExecutor(8) as pool:
        published = list(pool.map(publish, range(8)))

    assert all(one == published[0] for one in published)
    assert list(store.list("acme")) == [published[0].ref]


def test_a_store_tells_when_a_revision_came_and_how_much_a_tenant_keeps(
    store: AdapterStore, tmp_path: Path
) -> None:
    began = time.time()
    revision = store.publish("acme", "desk", a_peft_folder(tmp_path / "1", seed=1), an_origin())
    content = sum(entry.bytes for entry in revision.manifest.files.values())
    manifest_bytes = store.size("acme") - content

    # The memory's clock stands still; the others' is the disk's or the cloud's, in whole seconds.
    assert store.published_at(revision.ref) in (1_700_000_000, pytest.approx(began, abs=60))
    assert 100 < manifest_bytes < 10_000
    assert store.size("globex") == 0
    store.publish("acme", "sales", a_peft_folder(tmp_path / "2", seed=2), an_origin())
    assert store.size("acme") > 2 * content
    with pytest.raises(RevisionNotFound):
        store.published_at(RevisionRef("acme", "desk", "0" * 64))


def test_erasing_a_tenant_leaves_nothing_of_it_and_all_of_the_others(
    store: AdapterStore, tmp_path: Path
) -> None:
    staged = a_peft_folder(tmp_path / "staged")
    mine = [store.publish("acme", name, staged, an_origin()) for name in ("desk", "sales")]
    others = [store.publish(name, "desk", staged, an_origin()) for name in ("acme2", "globex")]

    store.erase("acme")
    store.erase("acme")
    store.erase("nobody")

    assert list(store.list("acme")) == []
    assert "acme" not in store.tenants()
    assert store.size("acme") == 0
    for revision in mine:
        assert not revision.path.exists(), "nor is there a copy"
        with pytest.raises(RevisionNotFound):
            store.open(revision.ref)
    assert [store.open(other.ref) for other in others] == others
    assert store.publish("acme", "desk", staged, an_origin()).ref == mine[0].ref
