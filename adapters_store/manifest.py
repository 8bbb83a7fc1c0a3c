"""The manifest beside a revision's files, and the digest that names the revision."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from adapters_store import files, layout
from adapters_store.errors import InvalidAdapter
from adapters_store.layout import CONTENT_FILES, MANIFEST_FILE
from adapters_store.models import (
    Described,
    FileEntry,
    Manifest,
    MergedManifest,
    RevisionRef,
)

VERSION = 1
MAX_BYTES = 4 << 20

_M = TypeVar("_M", bound=Described)


def digest(entries: Mapping[str, FileEntry]) -> str:
    """Name the content: what `sha256sum adapter_config.json adapter_model.safetensors | sha256sum`
    prints in the revision's folder.
    """
    lines = (f"{entries[name].sha256}  {name}\n" for name in sorted(entries))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def encode(manifest: Described) -> bytes:
    """Write it for people to read as well."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def read(folder: Path, ref: RevisionRef, kind: type[_M]) -> _M:
    """Read the manifest of `ref`. Raises InvalidAdapter if it is damaged or of something else."""
    with files.regular(folder / MANIFEST_FILE) as file:
        return parse(file.read(MAX_BYTES), ref, kind)


def parse(content: bytes, ref: RevisionRef, kind: type[_M]) -> _M:
    """Read the bytes of `ref`'s manifest. Raises InvalidAdapter as `read` does."""
    try:
        manifest = msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise InvalidAdapter(f"{MANIFEST_FILE} is damaged: {fault}") from None
    if manifest.version != VERSION:
        raise InvalidAdapter(f"{MANIFEST_FILE} has version {manifest.version}, known is {VERSION}")
    if isinstance(manifest, MergedManifest):
        _check_merged(manifest, ref)
    else:
        _check_revision(manifest, ref)
    return manifest


def _check_revision(manifest: Described, ref: RevisionRef) -> None:
    if manifest.ref != ref or sorted(manifest.files) != sorted(CONTENT_FILES):
        raise InvalidAdapter(f"{MANIFEST_FILE} describes another revision")
    if digest(manifest.files) != ref.digest:
        raise InvalidAdapter(f"{MANIFEST_FILE} does not add up to the revision's digest")


def claimed(folder: Path) -> Manifest | None:
    """Read a manifest that came with files from elsewhere, if there is one.

    Raises InvalidAdapter unless it is a manifest, and of these files.
    """
    if not (folder / MANIFEST_FILE).exists():
        return None
    with files.regular(folder / MANIFEST_FILE) as file:
        content = file.read(MAX_BYTES)
    try:
        ref = msgspec.json.decode(content, type=Manifest).ref
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise InvalidAdapter(f"{MANIFEST_FILE} is not an export's: {fault}") from None
    manifest = parse(content, ref, Manifest)
    verify(folder, manifest)
    return manifest


def _check_merged(manifest: MergedManifest, ref: RevisionRef) -> None:
    if manifest.ref != ref:
        raise InvalidAdapter(f"{MANIFEST_FILE} describes another merged model")
    if not manifest.files or not all(map(layout.is_file, manifest.files)):
        raise InvalidAdapter(f"{MANIFEST_FILE} names files that a merged model cannot have")


def verify(folder: Path, manifest: Described) -> None:
    """Compare every file with the manifest. Raises InvalidAdapter."""
    for name, expected in manifest.files.items():
        compare(name, files.entry(folder / name), expected)


def compare(name: str, found: FileEntry, expected: FileEntry) -> None:
    """Compare one file with what the manifest says of it. Raises InvalidAdapter."""
    if found.bytes != expected.bytes:
        raise InvalidAdapter(f"{name} has {found.bytes} bytes, published were {expected.bytes}")
    if found.sha256 != expected.sha256:
        raise InvalidAdapter(f"{name} changed since it was published")
