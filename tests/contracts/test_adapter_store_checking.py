"""What every adapter store tells of itself when all of it is gone through."""

from collections.abc import Callable
from pathlib import Path

import pytest

from adapters_store import AdapterStore, InvalidName, RevisionRef, checking
from tests.builders import a_peft_folder, an_origin
from tests.contracts.conftest import Harm
from tests.contracts.test_adapter_store_refusals import CONFIG, MANIFEST, WEIGHTS, cut, flip

LATER = 4e9


@pytest.fixture
def refs(store: AdapterStore, tmp_path: Path) -> list[RevisionRef]:
    """Revisions of two tenants."""
    folders = [a_peft_folder(tmp_path / f"adapter-{seed}", seed=seed) for seed in range(3)]
    tenants = ["acme", "acme", "globex"]
    return [
        store.publish(tenant, "desk", folder, an_origin()).ref
        for tenant, folder in zip(tenants, folders, strict=True)
    ]


def test_a_whole_store_has_nothing_to_tell(store: AdapterStore, refs: list[RevisionRef]) -> None:
    assert list(store.tenants()) == ["acme", "globex"]
    assert list(checking.check(store, LATER)) == []
    assert list(checking.collect(store, LATER)) == []
    assert all(store.open(ref).ref == ref for ref in refs)


@pytest.mark.parametrize(
    ("name", "damage"),
    [(CONFIG, flip), (WEIGHTS, flip), (WEIGHTS, cut), (CONFIG, Path.unlink), (MANIFEST, cut)],
)
def test_each_damaged_revision_is_named_and_no_other(
    store: AdapterStore,
    refs: list[RevisionRef],
    harm: Harm,
    name: str,
    damage: Callable[[Path], None],
) -> None:
    harm(store.open(refs[1]), name, damage if name != MANIFEST else lambda p: [cut(p), cut(p)])

    found = list(checking.check(store, LATER))

    assert [finding.where for finding in found] == [f"acme/desk/{refs[1].digest}"]
    assert found[0].what.startswith("damaged: ")
    assert name in found[0].what
    assert list(checking.check(store, LATER, "acme")) == found
    assert list(checking.check(store, LATER, "globex")) == []
    assert list(checking.collect(store, LATER)) == [], "what is damaged is for people to decide"


def test_content_without_a_manifest_is_told_and_collected_once_it_is_old(
    store: AdapterStore, refs: list[RevisionRef], harm: Harm, kind: str
) -> None:
    if kind == "memory":
        pytest.skip("a publish is one assignment there")
    harm(store.open(refs[0]), MANIFEST, Path.unlink)

    assert list(checking.check(store, now=0)) == []
    assert list(checking.collect(store, now=0)) == []
    found = list(checking.check(store, LATER))
    assert [finding.what for finding in found] == ["orphaned: no revision speaks of it"]
    assert found[0].where.startswith(f"acme/desk/{refs[0].digest}")

    assert list(checking.collect(store, LATER, "globex")) == []
    assert list(checking.collect(store, LATER)) == [found[0].where]
    assert list(checking.check(store, LATER)) == []
    assert [ref for tenant in store.tenants() for ref in store.list(tenant)] == sorted(refs[1:])


def test_a_hostile_tenant_is_refused(store: AdapterStore) -> None:
    for walk in (checking.check, checking.collect):
        with pytest.raises(InvalidName):
            list(walk(store, LATER, "../acme"))


def test_a_store_can_be_written(store: AdapterStore) -> None:
    store.probe()
    assert list(store.tenants()) == []
