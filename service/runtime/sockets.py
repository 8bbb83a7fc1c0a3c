"""Unix socket paths of any length: the kernel takes about a hundred bytes only."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LONGEST = 100


@contextmanager
def reachable(path: Path) -> Iterator[str]:
    """Give a name for `path` that is short enough to bind or connect to, while the context lasts.

    A path that is too long is reached through a symbolic link to its folder. The socket itself
    is always at `path`.
    """
    if len(os.fsencode(path)) <= _LONGEST:
        yield str(path)
        return
    with tempfile.TemporaryDirectory(prefix="lorehouse-") as folder:
        link = Path(folder, "d")
        link.symlink_to(path.parent, target_is_directory=True)
        yield str(link / path.name)
