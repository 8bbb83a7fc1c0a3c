"""An archive's bytes, in order, whether or not they came in gzip."""

import zlib
from collections.abc import Iterator
from typing import BinaryIO

from adapters_store.errors import InvalidAdapter
from adapters_store.files import CHUNK

MOST_GROWTH = 100
"""Weights shrink by half at best: what grows more than this was made to fill our disk."""
UNSUSPICIOUS_BYTES = 16 << 20
_GZIP = b"\x1f\x8b"
_GZIP_WINDOW = 16 + zlib.MAX_WBITS


class Source:
    """Reads exactly what it is asked for, and a block of memory at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._zlib = zlib.decompressobj(_GZIP_WINDOW) if file.read(2) == _GZIP else None
        self._given = self._taken = 0
        file.seek(0)

    def read(self, size: int) -> bytes:
        """Give the next bytes, few enough for memory. Raises InvalidAdapter if they end before."""
        return b"".join(self.blocks(size))

    def skip(self, size: int) -> None:
        """Read over the next bytes."""
        for _ in self.blocks(size):
            pass

    def blocks(self, size: int) -> Iterator[bytes]:
        """Give the next bytes in pieces. Raises InvalidAdapter."""
        while size:
            block = self._some(min(size, CHUNK))
            if not block:
                raise InvalidAdapter("the archive is cut off")
            size -= len(block)
            yield block

    def finish(self) -> None:
        """Read what fills the archive up. Raises InvalidAdapter if it is anything but zeros."""
        while block := self._some(CHUNK):
            if any(block):
                raise InvalidAdapter("the archive goes on after its end")

    def _some(self, most: int) -> bytes:
        return self._file.read(most) if self._zlib is None else self._inflate(most)

    def _inflate(self, most: int) -> bytes:
        assert self._zlib is not None
        block = b""
        while not block and not self._zlib.eof:
            packed = self._zlib.unconsumed_tail or self._file.read(CHUNK)
            try:
                block = self._zlib.decompress(packed, most)
            except zlib.error as fault:
                raise InvalidAdapter(f"the archive is damaged: {fault}") from None
            self._taken += len(packed) - len(self._zlib.unconsumed_tail)
            if not packed and not block:
                raise InvalidAdapter("the archive is cut off: its gzip stream has no end")
        self._given += len(block)
        if self._given > max(UNSUSPICIOUS_BYTES, MOST_GROWTH * self._taken):
            raise InvalidAdapter(f"the archive unpacks to over {MOST_GROWTH} times its size")
        if not block and (self._zlib.unused_data or self._file.read(1)):
            raise InvalidAdapter("the archive goes on after the end of its gzip stream")
        return block
