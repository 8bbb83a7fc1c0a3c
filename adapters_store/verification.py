"""Open a revision's folder: verify it fully once, then cheaply for as long as it is untouched."""

import os
from collections.abc import Callable
from pathlib import Path

from adapters_store import manifest
from adapters_store.errors import InvalidAdapter
from adapters_store.layout import CONTENT_FILES, MANIFEST_FILE
from adapters_store.models import Manifest, RevisionRef
from adapters_store.store import Revision

_Stamp = tuple[int, ...]

# A file changed twice within a tick of the file system's clock keeps its time stamp: what changed
# this recently is verified again the next time.
_SETTLED = 1.0


class Verifier:
    """Remembers which folders were verified, by their files' inode, times and size."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: dict[RevisionRef, tuple[_Stamp, Manifest]] = {}

    def open(self, ref: RevisionRef, folder: Path) -> Revision:
        """Give the revision in `folder`. Raises InvalidAdapter if it is not what was published."""
        stamp = _stamp(folder)
        known = self._seen.get(ref)
        if known is not None and known[0] == stamp:
            return Revision(ref, folder, known[1])
        found = manifest.read(folder, ref, Manifest)
        manifest.verify(folder, found)
        if self._clock() - _newest(folder) > _SETTLED:
            self._seen[ref] = (stamp, found)
        return Revision(ref, folder, found)

    def forget(self, ref: RevisionRef) -> None:
        """Let go of a deleted revision."""
        self._seen.pop(ref, None)


def _stamp(folder: Path) -> _Stamp:
    stamp: list[int] = []
    for name in (*CONTENT_FILES, MANIFEST_FILE):
        found = _stat(folder / name)
        stamp += (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return tuple(stamp)


def _newest(folder: Path) -> float:
    return max(_stat(folder / name).st_ctime for name in (*CONTENT_FILES, MANIFEST_FILE))


def _stat(path: Path) -> os.stat_result:
    try:
        return path.lstat()
    except FileNotFoundError:
        raise InvalidAdapter(f"{path.name} is missing") from None
