"""The data folder, held by one API process at a time."""

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.settings import SettingsError

LOCK = "lock"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make the folder if need be, and keep every other API process out of it.

    Another one would empty `incoming/` under our uploads and take the runtimes' socket. Raises
    SettingsError. The hold ends with this process, however it ends.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        lock = (folder / LOCK).open("w")
    except OSError as fault:
        message = f"LOREHOUSE_DATA_DIR: cannot write in {folder}: {fault.strerror}"
        raise SettingsError(message) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"LOREHOUSE_DATA_DIR: another Lorehouse is running on {folder}"
            raise SettingsError(message) from None
        yield
