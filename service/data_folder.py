"""The data folder: of one API process at a time with SQLite, of several with PostgreSQL."""

import fcntl
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from service.settings import SettingsError

LOCK, SHARERS = "lock", "sharers"
PATIENCE_SECONDS = 120.0
"""For another process's start, which may have migrations to do."""
AGAIN_SECONDS = 0.05


class Hold:
    """A process's hold on the data folder. While it starts, no other one does."""

    def __init__(self, lock: IO[str], sharers: IO[str]) -> None:
        self._lock, self._sharers = lock, sharers
        self.alone = _taken(sharers, fcntl.LOCK_EX)
        """Whether no other process has the folder, so that what it finds is nobody's."""

    def share(self) -> None:
        """Let others in."""
        fcntl.flock(self._sharers, fcntl.LOCK_SH)
        fcntl.flock(self._lock, fcntl.LOCK_UN)


@contextmanager
def held(folder: Path, *, shared: bool = False) -> Iterator[Hold]:
    """Make the folder if need be, and keep every other API process out of it.

    Another one would empty `incoming/` under our uploads. With `shared` it waits while another one
    starts, and may let others in afterwards. Raises SettingsError. The hold ends with this
    process, however it ends.
    """
    with _opened(folder, LOCK) as lock, _opened(folder, SHARERS) as sharers:
        patience = time.monotonic() + (PATIENCE_SECONDS if shared else 0)
        while not _taken(lock, fcntl.LOCK_EX):
            if time.monotonic() >= patience:
                raise _another(folder)
            time.sleep(AGAIN_SECONDS)
        hold = Hold(lock, sharers)
        if not hold.alone:
            if not shared:
                raise _another(folder)
            fcntl.flock(sharers, fcntl.LOCK_SH)
        yield hold


def _opened(folder: Path, name: str) -> IO[str]:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        return (folder / name).open("w")
    except OSError as fault:
        message = f"LOREHOUSE_DATA_DIR: cannot write in {folder}: {fault.strerror}"
        raise SettingsError(message) from None


def _taken(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _another(folder: Path) -> SettingsError:
    return SettingsError(f"LOREHOUSE_DATA_DIR: another Lorehouse is running on {folder}")
