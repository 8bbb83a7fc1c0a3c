"""What comes from elsewhere is taken whole and plain, or refused by name with nothing kept."""

import gzip
import io
import json
import random
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from adapters_store import FilesystemAdapterStore, InvalidAdapter
from adapters_store.intake import from_archive, from_files
from tests.archives import (
    CONFIG,
    CORRUPTIONS,
    MANIFEST,
    WEIGHTS,
    Corruption,
    Folder,
    extension,
    folder_of,
    header,
    raw,
    tar,
)
from tests.builders import a_peft_folder, an_origin

MOST = 1 << 30
FEW_BYTES = 12 << 20


@pytest.fixture
def store(tmp_path: Path) -> FilesystemAdapterStore:
    return FilesystemAdapterStore(tmp_path / "store")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return a_peft_folder(tmp_path / "made", targets=("q_proj", "o_proj"), hidden=256)


@pytest.fixture
def good(made: Path) -> Folder:
    return folder_of(made)


def taken(store: FilesystemAdapterStore, tmp_path: Path, archive: bytes) -> Folder:
    """Take an archive in, and give what was kept of it."""
    (tmp_path / "upload").write_bytes(archive)
    with store.stage() as staged:
        from_archive(tmp_path / "upload", staged, MOST)
        return folder_of(staged)


def below(path: Path) -> list[str]:
    return sorted(str(found.relative_to(path)) for found in path.rglob("*"))


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda one: one.name)
def test_a_corrupt_archive_is_refused_by_name_and_leaves_nothing(
    store: FilesystemAdapterStore, tmp_path: Path, good: Folder, corruption: Corruption
) -> None:
    archive = corruption.spoil(good)
    before = below(tmp_path / "store")

    with pytest.raises(InvalidAdapter) as refusal:
        taken(store, tmp_path, archive)

    assert corruption.reason in str(refusal.value)
    assert len(str(refusal.value)) < 400
    assert str(refusal.value).isprintable()
    assert below(tmp_path / "store") == before


def _as_python_writes_it(folder: Folder) -> bytes:
    dated = []
    for name, content in folder.items():
        info = tarfile.TarInfo(f"some-adapter/{name}")
        info.size, info.mtime = len(content), 1_700_000_000.25
        dated.append((info, content))
    top = tarfile.TarInfo("some-adapter/")
    top.type = tarfile.DIRTYPE
    return tar({}, (top, b""), *dated, format=tarfile.PAX_FORMAT)


def _as_a_mac_writes_it(folder: Folder) -> bytes:
    xattr = b"27 SCHILY.xattr.x=\xff\xfe\x00ab cd\n"
    return raw(folder, extension(xattr), header("._README.md"), header(".DS_Store"))


def _as_git_writes_it(folder: Folder) -> bytes:
    return raw(folder, extension(b"19 comment=abcdefg\n", tarfile.XGLTYPE))


def _with_a_long_name(folder: Folder) -> bytes:
    return tar(folder, (f"{'n' * 200}.md", b"hello"), format=tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "write",
    [
        tar,
        lambda folder: gzip.compress(tar(folder)),
        lambda folder: tar(folder, root="./"),
        lambda folder: tar(folder, root="checkpoint-12/"),
        lambda folder: tar(folder | {"README.md": b"# me", "tokenizer.json": b"{}"}),
        lambda folder: tar(dict(reversed(folder.items()))),
        _as_python_writes_it,
        _as_a_mac_writes_it,
        _as_git_writes_it,
        _with_a_long_name,
    ],
)
def test_what_tools_write_is_taken_and_only_the_adapter_is_kept(
    store: FilesystemAdapterStore, tmp_path: Path, good: Folder, write: object
) -> None:
    assert callable(write)
    assert taken(store, tmp_path, write(good)) == good


def test_files_are_taken_as_they_are(
    store: FilesystemAdapterStore, made: Path, good: Folder
) -> None:
    with store.stage() as staged:
        arrival = from_files(made / CONFIG, made / WEIGHTS, staged)
        assert folder_of(staged) == good
    assert (arrival.config.rank, arrival.manifest) == (4, None)
    assert {tensor.shape for tensor in arrival.tensors} == {(4, 256), (256, 4)}


def test_an_export_is_taken_with_its_manifest_and_only_with_its_own(
    store: FilesystemAdapterStore, tmp_path: Path, made: Path
) -> None:
    other = a_peft_folder(tmp_path / "other", seed=1)
    one, two = (
        store.publish("acme", "desk", folder, an_origin(format="raw")) for folder in (made, other)
    )
    exported, swapped = folder_of(one.path), folder_of(two.path)

    assert taken(store, tmp_path, tar(exported)) == exported
    with pytest.raises(InvalidAdapter, match="published"):
        taken(store, tmp_path, tar(exported | {MANIFEST: swapped[MANIFEST]}))
    flipped = bytearray(exported[WEIGHTS])
    flipped[-1] ^= 1
    with pytest.raises(InvalidAdapter, match=f"{WEIGHTS} changed since it was published"):
        taken(store, tmp_path, tar(exported | {WEIGHTS: bytes(flipped)}))
    document = json.loads(exported[MANIFEST])
    document["ref"]["digest"] = two.ref.digest
    with pytest.raises(InvalidAdapter, match="does not add up"):
        taken(store, tmp_path, tar(exported | {MANIFEST: json.dumps(document).encode()}))


def test_a_limit_is_for_all_members_together(
    store: FilesystemAdapterStore, tmp_path: Path, good: Folder
) -> None:
    (tmp_path / "upload").write_bytes(tar(good))
    size = sum(map(len, good.values()))
    with store.stage() as staged:
        from_archive(tmp_path / "upload", staged, size)
    with store.stage() as staged, pytest.raises(InvalidAdapter, match="unpacks to more than"):
        from_archive(tmp_path / "upload", staged, size - 1)


def test_a_large_archive_takes_little_memory(
    store: FilesystemAdapterStore, tmp_path: Path, good: Folder
) -> None:
    noise = random.Random(0).randbytes(1 << 20)
    with gzip.open(tmp_path / "upload", "wb", compresslevel=1) as out:
        out.write(header("README.md", size=32 << 20) + noise * 32 + tar(good))
    tracemalloc.start()
    try:
        with store.stage() as staged:
            from_archive(tmp_path / "upload", staged, MOST)
            assert folder_of(staged) == good
        assert tracemalloc.get_traced_memory()[1] < FEW_BYTES
    finally:
        tracemalloc.stop()


def test_the_archives_of_these_tests_are_good_before_they_are_spoiled(good: Folder) -> None:
    with tarfile.open(fileobj=io.BytesIO(tar(good))) as archive:
        assert sorted(archive.getnames()) == [CONFIG, WEIGHTS]
