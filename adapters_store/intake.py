"""An adapter from elsewhere, on its way into the store: unpacked, and seen to be one.

What `publish` checks as well is not checked here, but for what must be known before.
"""

import shutil
from pathlib import Path
from typing import Any

import msgspec

from adapters_store import config, files, manifest, tensors
from adapters_store.archive import unpack
from adapters_store.config import AdapterConfig
from adapters_store.errors import InvalidAdapter
from adapters_store.layout import CONFIG_FILE, WEIGHTS_FILE
from adapters_store.models import Manifest
from adapters_store.tensors import Tensor

# A pickle's first opcode, and the zip file that torch wraps around one.
_PICKLE_MAGICS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")


class Arrival(msgspec.Struct, frozen=True):
    """What the staged files are."""

    document: dict[str, Any]
    config: AdapterConfig
    tensors: list[Tensor]
    manifest: Manifest | None
    """Of the export that it was, if it says so: another store's words, and true of these files."""


def from_archive(archive: Path, staged: Path, most: int) -> Arrival:
    """Take an adapter out of a tar, plain or in gzip, into an empty folder.

    `most` are the bytes that it may have unpacked. Raises InvalidAdapter.
    """
    with files.regular(archive) as file:
        unpack(file, staged, most)
    return _arrived(staged)


def from_files(document: Path, weights: Path, staged: Path) -> Arrival:
    """Take PEFT's two files into an empty folder. Raises InvalidAdapter."""
    for source, name in ((document, CONFIG_FILE), (weights, WEIGHTS_FILE)):
        shutil.copyfile(source, staged / name)
    return _arrived(staged)


def _arrived(staged: Path) -> Arrival:
    with files.regular(staged / CONFIG_FILE) as file:
        document = config.parse(file.read(config.MAX_BYTES + 1))
    wanted = config.check(document)
    with files.regular(staged / WEIGHTS_FILE) as file:
        if file.read(4).startswith(_PICKLE_MAGICS):
            raise InvalidAdapter(f"{WEIGHTS_FILE}: is pickled code under another name")
        file.seek(0)
        found = tensors.check(file, wanted)
    if tensors.is_blank(staged):
        raise InvalidAdapter(f"{WEIGHTS_FILE}: every B is zero: it would change nothing")
    return Arrival(document, wanted, found, manifest.claimed(staged))
