"""Who has which blocks of the key-value cache, and which hold a prefix worth keeping. Pure.

    free -> held (1..n sequences) -> free                      a block that was never filled
                                  -> kept -> held | free       a full one, found by its digest

Only full blocks are shared, and nobody writes into a full block: there is no copying on write.
"""

import hashlib
from array import array
from collections import deque
from collections.abc import Iterable, Sequence

SIZE = 16
"""Tokens in a block."""


def root(salt: str, adapter: str | None) -> bytes:
    """Give the digest that a sequence's chain of blocks begins with.

    Chains of other salts (tenants) or adapters have no block in common, whatever their tokens.
    """
    parts = [salt, *([] if adapter is None else [adapter])]
    return hashlib.sha256(b"".join(_framed(part.encode()) for part in parts)).digest()


def chain(parent: bytes, tokens: Sequence[int], size: int) -> list[bytes]:
    """Give the digests of the full blocks of `tokens`, each standing for all that came before."""
    digests = []
    for start in range(0, len(tokens) - size + 1, size):
        block = array("q", tokens[start : start + size]).tobytes()
        parent = hashlib.sha256(parent + block).digest()
        digests.append(parent)
    return digests


class Blocks:
    """`count` blocks, numbered from 1. Block 0 is for rows and columns that mean nothing."""

    def __init__(self, count: int, size: int = SIZE) -> None:
        self.count = count
        self.size = size
        self._free = deque(range(1, count + 1))
        self._kept: dict[int, None] = {}  # least recently released first
        self._holders = [0] * (count + 1)
        self._digests: dict[int, bytes] = {}
        self._found: dict[bytes, int] = {}

    @property
    def available(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free) + len(self._kept)

    @property
    def used(self) -> int:
        """Blocks that some sequence holds."""
        return self.count - self.available

    def needed(self, tokens: int) -> int:
        """Give how many blocks that many tokens fill or begin."""
        return -(-tokens // self.size)

    def find(self, digests: Iterable[bytes]) -> list[int]:
        """Give the blocks of the longest beginning of a chain that is there."""
        found = []
        for digest in digests:
            if digest not in self._found:
                break
            found.append(self._found[digest])
        return found

    def idle(self, blocks: Iterable[int]) -> int:
        """Count those of the blocks that nobody holds."""
        return sum(not self._holders[block] for block in blocks)

    def hold(self, blocks: Iterable[int]) -> None:
        """Hold blocks that were found."""
        for block in blocks:
            self._kept.pop(block, None)
            self._holders[block] += 1

    def take(self, count: int) -> list[int]:
        """Hold that many blocks of nobody's; the longest unused prefix goes when there is no other.

        Raises ValueError when there are not enough.
        """
        if count > self.available:
            raise ValueError(f"{count} blocks are wanted and {self.available} are there")
        taken = [self._free.popleft() if self._free else self._forget() for _ in range(count)]
        for block in taken:
            self._holders[block] = 1
        return taken

    def publish(self, block: int, digest: bytes) -> None:
        """Let a full block be found, unless another with the same content is."""
        if digest not in self._found and block not in self._digests:
            self._found[digest] = block
            self._digests[block] = digest

    def release(self, blocks: Sequence[int]) -> None:
        """Let go of a sequence's blocks."""
        # From its end: of a prefix, the beginning is worth most.
        for block in reversed(blocks):
            self._holders[block] -= 1
            if not self._holders[block]:
                if block in self._digests:
                    self._kept[block] = None
                else:
                    self._free.append(block)

    def check_integrity(self, tables: Iterable[Sequence[int]]) -> None:
        """Raise AssertionError if the books are wrong; `tables` are what all sequences hold."""
        holders = [0] * (self.count + 1)
        for table in tables:
            assert len(set(table)) == len(table), "a sequence holds a block twice"
            for block in table:
                holders[block] += 1
        assert holders == self._holders, "holders are counted wrongly"
        idle = [*self._free, *self._kept]
        assert len(set(idle)) == len(idle), "a block is idle twice"
        assert set(idle) == {b for b in range(1, self.count + 1) if not holders[b]}, (
            "a block leaked"
        )
        assert not holders[0], "the block of nobody is held"
        assert not set(self._free) & self._digests.keys(), "a free block can be found"
        assert {d: b for b, d in self._digests.items()} == self._found, "a digest is lost"

    def _forget(self) -> int:
        block = next(iter(self._kept))
        del self._kept[block]
        del self._found[self._digests.pop(block)]
        return block


def _framed(part: bytes) -> bytes:
    return len(part).to_bytes(8, "big") + part
