"""Files as a tar stream: the same bytes for the same files, and its length known beforehand."""

from collections.abc import Iterable, Iterator
from tarfile import BLOCKSIZE, GNU_FORMAT, TarInfo

END = bytes(2 * BLOCKSIZE)
_MODE = 0o644


def size(sizes: Iterable[int]) -> int:
    """Tell how long the tar of files of these sizes is; their names are short."""
    return sum(BLOCKSIZE + size + _padding(size) for size in sizes) + len(END)


def blocks(files: Iterable[tuple[str, int, Iterator[bytes]]], made: int) -> Iterator[bytes]:
    """Give the tar of files by name, size and content, all as old as `made`, in unix seconds."""
    for name, size, content in files:
        header = TarInfo(name)
        header.size, header.mtime, header.mode = size, made, _MODE
        yield header.tobuf(GNU_FORMAT)
        yield from content
        yield bytes(_padding(size))
    yield END


def _padding(size: int) -> int:
    return -size % BLOCKSIZE
