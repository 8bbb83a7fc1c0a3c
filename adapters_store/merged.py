"""A merged model as a reader gets it: block by block, and each file verified on the way."""

import hashlib
from collections.abc import Callable, Iterator

import msgspec

from adapters_store import manifest
from adapters_store.errors import InvalidAdapter
from adapters_store.models import FileEntry, MergedManifest


class MergedModel(msgspec.Struct, frozen=True):
    """A published merged model. It may be far larger than what one would copy to read it."""

    manifest: MergedManifest
    blocks: Callable[[str], Iterator[bytes]]
    """Reads a file as it lies there."""

    def read(self, name: str) -> Iterator[bytes]:
        """Read a file. Raises InvalidAdapter before the last block if it is not what was
        published: whoever got all of it got that.
        """
        expected = self.manifest.files[name]
        sha256, size, held = hashlib.sha256(), 0, b""
        for block in self.blocks(name):
            sha256.update(block)
            size += len(block)
            if held:
                yield held
            held = block
        manifest.compare(name, FileEntry(sha256.hexdigest(), size), expected)
        yield held

    def verify(self) -> None:
        """Read all of it. Raises InvalidAdapter."""
        for name in self.manifest.files:
            for _ in self.read(name):
                pass


def check_sizes(model: MergedModel, size: Callable[[str], int]) -> MergedModel:
    """Give the model, unless a file is missing or of another size. Raises InvalidAdapter.

    `size` raises FileNotFoundError for what is not there.
    """
    for name, expected in model.manifest.files.items():
        try:
            found = size(name)
        except FileNotFoundError:
            raise InvalidAdapter(f"{name} is missing") from None
        manifest.compare(name, FileEntry(expected.sha256, found), expected)
    return model
