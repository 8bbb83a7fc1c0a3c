"""A revision leaves as a plain tar, always the same one, also while it is deleted."""

import io
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from adapters_store import FilesystemAdapterStore, InvalidAdapter, Revision, RevisionNotFound
from adapters_store.export import archive
from adapters_store.intake import from_archive
from tests.archives import CONFIG, MANIFEST, WEIGHTS, folder_of
from tests.builders import a_peft_folder, an_origin


def clock() -> float:
    return 1_700_000_000.5


@pytest.fixture
def store(tmp_path: Path) -> FilesystemAdapterStore:
    return FilesystemAdapterStore(tmp_path / "store", clock)


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    return a_peft_folder(tmp_path / "made")


def exported(revision: Revision) -> tuple[str, bytes]:
    """Give an export's tag and its bytes."""
    with closing(archive(revision)) as whole:
        return whole.tag, b"".join(whole.chunks())


def test_it_is_a_plain_tar_of_the_revisions_files(
    store: FilesystemAdapterStore, staged: Path
) -> None:
    revision = store.publish("acme", "desk", staged, an_origin())

    with closing(archive(revision)) as whole:
        content = b"".join(whole.chunks())

    assert len(content) == whole.size
    with tarfile.open(fileobj=io.BytesIO(content)) as read:
        assert read.getnames() == [CONFIG, WEIGHTS, MANIFEST]
        assert {(m.uname, m.uid, m.mode, m.mtime) for m in read} == {("", 0, 0o644, 1_700_000_000)}
        found = {name: read.extractfile(name).read() for name in read.getnames()}  # type: ignore[union-attr]
    assert found == folder_of(revision.path)


def test_it_is_the_same_each_time_and_the_tag_says_so(tmp_path: Path, staged: Path) -> None:
    stores = [FilesystemAdapterStore(tmp_path / name, clock) for name in ("one", "two")]
    one, two = (store.publish("acme", "desk", staged, an_origin()) for store in stores)
    other = stores[0].publish("acme", "other", staged, an_origin())

    assert exported(one) == exported(two)
    assert exported(one)[0] != exported(other)[0]


def test_what_was_exported_is_imported_as_the_same_revision(
    store: FilesystemAdapterStore, staged: Path, tmp_path: Path
) -> None:
    revision = store.publish("acme", "desk", staged, an_origin(format="raw"))
    (tmp_path / "tar").write_bytes(exported(revision)[1])

    with store.stage() as folder:
        arrival = from_archive(tmp_path / "tar", folder, 1 << 20)
        again = store.publish("globex", "other", folder, an_origin())

    assert arrival.manifest == revision.manifest
    assert again.ref.digest == revision.ref.digest


def test_a_revision_that_is_deleted_meanwhile_is_exported_whole(
    store: FilesystemAdapterStore, staged: Path
) -> None:
    revision = store.publish("acme", "desk", staged, an_origin())
    weights = (revision.path / WEIGHTS).read_bytes()
    with closing(archive(revision)) as whole:
        chunks = whole.chunks()
        begin = next(chunks)
        store.delete(revision.ref)

        assert weights in begin + b"".join(chunks)
    with pytest.raises(RevisionNotFound):
        archive(revision)


def test_what_changed_on_the_disk_is_not_exported(
    store: FilesystemAdapterStore, staged: Path
) -> None:
    revision = store.publish("acme", "desk", staged, an_origin())
    weights = revision.path / WEIGHTS
    weights.chmod(0o600)
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")

    with pytest.raises(InvalidAdapter, match="changed since it was published"):
        archive(store.open(revision.ref))
