"""Small deeds on files and folders: durable writes, digests, removal."""

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from adapters_store.errors import InvalidAdapter
from adapters_store.models import FileEntry

CHUNK = 1 << 20
_FOLDER_MODE = 0o750
_FILE_MODE = 0o444


@contextmanager
def regular(path: Path) -> Iterator[BinaryIO]:
    """Open a plain file for reading. Raises InvalidAdapter for a link, a pipe, or nothing."""
    try:
        # Without O_NONBLOCK a pipe in the place of a file would hang the caller.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as fault:
        raise InvalidAdapter(f"{path.name} cannot be read: {fault.strerror}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InvalidAdapter(f"{path.name} is not a plain file")
    with os.fdopen(handle, "rb") as file:
        yield file


def entry(path: Path) -> FileEntry:
    """Measure a file. Raises InvalidAdapter if it cannot be read."""
    return _measured(blocks(path))


def write(path: Path, content: bytes) -> FileEntry:
    """Write a new read-only file, durably; measure it."""
    return _write(path, [content])


def copy(source: Path, target: Path) -> FileEntry:
    """Copy a plain file into a new read-only one, durably; measure what was written."""
    return _write(target, blocks(source))


def _write(path: Path, content: Iterable[bytes]) -> FileEntry:
    with path.open("xb") as file:
        made = _measured(_written(content, file))
        settle(file)
    return made


def _written(content: Iterable[bytes], file: BinaryIO) -> Iterator[bytes]:
    for block in content:
        file.write(block)
        yield block


def _measured(content: Iterable[bytes]) -> FileEntry:
    sha256, size = hashlib.sha256(), 0
    for block in content:
        sha256.update(block)
        size += len(block)
    return FileEntry(sha256.hexdigest(), size)


def seal(path: Path) -> FileEntry:
    """Measure a file and make it durable and read-only, where it is. Raises InvalidAdapter."""
    found = entry(path)
    with regular(path) as file:
        settle(file)
    return found


def blocks(path: Path) -> Iterator[bytes]:
    """Read a file block by block. Raises InvalidAdapter if it cannot be read."""
    with regular(path) as file:
        while block := file.read(CHUNK):
            yield block


def settle(file: BinaryIO) -> None:
    """Make a written file durable and read-only."""
    file.flush()
    os.fchmod(file.fileno(), _FILE_MODE)
    os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make a folder's entries durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def move(folder: Path, place: Path) -> bool:
    """Rename a folder to where it belongs; False where an equal one is there already."""
    try:
        folder.rename(place)
    except OSError as fault:
        # Another process was faster by a moment, perhaps.
        if fault.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def make_folder(path: Path) -> None:
    """Make a folder, with its parents, durably; one that is there already is fine."""
    missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
    for folder in reversed(missing):
        with suppress(FileExistsError):
            folder.mkdir(_FOLDER_MODE)
        sync_folder(folder.parent)


def size(folder: Path) -> int:
    """Add up the bytes of all files below a folder, which may be gone."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            found = path.lstat()
            total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total


def remove(path: Path) -> None:
    """Remove a folder and all in it; what is gone already is fine."""
    shutil.rmtree(path, onerror=_unless_gone)


_Fault = tuple[type[BaseException], BaseException, TracebackType]


def _unless_gone(_function: object, _path: str, fault: _Fault) -> None:
    if not isinstance(fault[1], FileNotFoundError):
        raise fault[1]


@contextmanager
def workspace(parent: Path) -> Iterator[Path]:
    """Give a new folder of our own, which `sweep` leaves alone until this process is dead."""
    path, handle = _claim_new(parent)
    try:
        yield path
    finally:
        remove(path)
        os.close(handle)


def sweep(parent: Path) -> None:
    """Remove the folders whose owners died. A lock, unlike a pid or an age, cannot be mistaken."""
    for path in parent.iterdir():
        handle = claim(path)
        if handle is not None:
            remove(path)
            os.close(handle)


def _claim_new(parent: Path) -> tuple[Path, int]:
    while True:
        path = parent / secrets.token_hex(16)
        path.mkdir(_FOLDER_MODE)
        handle = claim(path)
        # A sweeper may have come between the folder and its lock; then there is another try.
        if handle is not None:
            if os.fstat(handle).st_nlink:
                return path, handle
            os.close(handle)


def claim(path: Path) -> int | None:
    """Lock a folder for ourselves; None when it is gone or somebody has it."""
    handle = _handle(path)
    if handle is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def share(path: Path) -> int | None:
    """Lock a folder against `claim`, beside others; None when it is gone."""
    handle = _handle(path)
    if handle is None:
        return None
    fcntl.flock(handle, fcntl.LOCK_SH)
    # Who claimed it before us may have taken it away while we waited.
    if _is_at(handle, path):
        return handle
    os.close(handle)
    return None


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def _handle(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
