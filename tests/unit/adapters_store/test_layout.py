"""What only a real file system can do to a path."""

from pathlib import Path

import pytest

from adapters_store import FilesystemAdapterStore, InvalidName, RevisionRef
from tests.builders import a_peft_folder, an_origin


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Another store beside ours, which a planted link leads to."""
    path = tmp_path / "outside"
    FilesystemAdapterStore(path).publish("acme", "desk", _staged(tmp_path), an_origin())
    return path


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_link_that_leads_out_of_the_store_is_not_followed(
    tmp_path: Path, outside: Path, level: int
) -> None:
    ref = next(FilesystemAdapterStore(outside).list("acme"))
    store = FilesystemAdapterStore(tmp_path / "store")
    parts = (ref.tenant, ref.adapter, ref.digest)
    planted = (tmp_path / "store").joinpath(*parts[: level + 1])
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.symlink_to(outside.joinpath(*parts[: level + 1]))
    before = sorted(outside.rglob("*"))

    for call in (store.open, store.delete):
        with pytest.raises(InvalidName, match="symbolic link"):
            call(ref)
    with pytest.raises((InvalidName, OSError)):
        store.publish("acme", "desk", _staged(tmp_path), an_origin())

    assert sorted(outside.rglob("*")) == before


def test_a_listing_does_not_look_through_a_link(tmp_path: Path, outside: Path) -> None:
    store = FilesystemAdapterStore(tmp_path / "store")
    (tmp_path / "store" / "acme").symlink_to(outside / "acme")

    with pytest.raises(InvalidName, match="symbolic link"):
        list(store.list("acme"))


def test_the_store_itself_may_be_reached_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    store = FilesystemAdapterStore(tmp_path / "store")

    published = store.publish("acme", "desk", _staged(tmp_path), an_origin())

    assert FilesystemAdapterStore(tmp_path / "disk").open(published.ref) == published


def test_what_is_no_revision_is_not_listed(tmp_path: Path) -> None:
    store = FilesystemAdapterStore(tmp_path / "store")
    published = store.publish("acme", "desk", _staged(tmp_path), an_origin())
    adapter = published.path.parent
    (adapter / "lost+found").mkdir()
    (adapter / ("e" * 64)).mkdir()
    (adapter / ("f" * 64)).write_text("a file")
    (adapter.parent / "Not-A-Name").mkdir()
    (adapter.parent / "notes").write_text("a file")

    assert list(store.list("acme")) == [published.ref]
    assert isinstance(published.ref, RevisionRef)


def _staged(tmp_path: Path) -> Path:
    return a_peft_folder(tmp_path / "staged")
