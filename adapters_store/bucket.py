"""The few deeds on objects that a store needs, on any cloud; obstore's errors end here."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import msgspec
import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import from_url

from adapters_store import files
from adapters_store.errors import InvalidLocation, StoreUnavailable

SCHEMES = frozenset({"file", "s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl"})
_RETRIES = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}
# Small, so that obstore's limit of 30 seconds is one for a request and not for an adapter.
_RANGE = 8 << 20


class Found(msgspec.Struct, frozen=True):
    """An object that is there; `written` is in unix seconds."""

    key: str
    bytes: int
    written: float


class Bucket:
    """A URL's objects.

    What goes wrong is raised as StoreUnavailable; FileNotFoundError where that is said. A bucket
    that is not there is the former when writing, but cannot be told from the latter when reading.
    """

    def __init__(self, url: str) -> None:
        scheme = url.partition("://")[0]
        if scheme not in SCHEMES:
            raise InvalidLocation(f"the scheme must be one of {', '.join(sorted(SCHEMES))}")
        # No client options: with them obstore forgets those that the environment sets.
        options: dict[str, Any] = (
            {"mkdir": True} if scheme == "file" else {"retry_config": _RETRIES}
        )
        try:
            self._store = from_url(url, **options)
            self._folder = Path(url2pathname(urlsplit(url).path)) if scheme == "file" else None
        except (BaseError, OSError, ValueError) as fault:
            raise InvalidLocation(_first_line(fault)) from None

    def create(self, key: str, content: bytes) -> bool:
        """Write an object unless it is there; tells whether it was not."""
        with _answered():
            try:
                obstore.put(self._store, key, content, mode="create")
            except AlreadyExistsError:
                return False
        return True

    def upload(self, key: str, path: Path) -> None:
        """Write a file's content, in parts when it is large."""
        with _answered():
            obstore.put(self._store, key, path)

    def exists(self, key: str) -> bool:
        """Tell whether there is such an object."""
        try:
            self.find(key)
        except FileNotFoundError:
            return False
        return True

    def find(self, key: str) -> Found:
        """Describe an object. Raises FileNotFoundError."""
        with _found():
            return _describe(obstore.head(self._store, key))

    def read(self, key: str, most: int) -> bytes:
        """Read a small object; nothing of one that is not. Raises FileNotFoundError."""
        with _found():
            found = obstore.get(self._store, key)
            return bytes(found.bytes()) if found.meta["size"] <= most else b""

    def download(self, key: str, path: Path, size: int) -> None:
        """Copy an object's first `size` bytes into a new file. Raises FileNotFoundError."""
        with path.open("xb") as file:
            for block in self.blocks(key, size):
                file.write(block)
            files.settle(file)

    def blocks(self, key: str, size: int) -> Iterator[bytes]:
        """Read an object's first `size` bytes block by block. Raises FileNotFoundError."""
        for start in range(0, size, _RANGE):
            with _found():
                end = min(size, start + _RANGE)
                block = bytes(obstore.get_range(self._store, key, start=start, end=end))
            yield block

    def walk(self, folder: str) -> Iterator[Found]:
        """List all objects below a folder, in no order."""
        with _answered():
            for page in obstore.list(self._store, folder):
                yield from map(_describe, page)

    def folders(self) -> list[str]:
        """Name what lies at the top and has something in it."""
        with _answered():
            return [*obstore.list_with_delimiter(self._store)["common_prefixes"]]

    def remove_folder(self, folder: str) -> None:
        """Remove all objects below a folder, and what only a local bucket has: the folder itself,
        and files of puts that were cut, which no listing shows.
        """
        for key in [found.key for found in self.walk(folder)]:
            with suppress(FileNotFoundError):
                self.remove(key)
        if self._folder is not None:
            files.remove(self._folder / folder)

    def remove(self, key: str) -> None:
        """Remove an object. Raises FileNotFoundError where the cloud tells."""
        with _found():
            obstore.delete(self._store, key)


def _describe(meta: "obstore.ObjectMeta") -> Found:
    return Found(meta["path"], meta["size"], meta["last_modified"].timestamp())


@contextmanager
def _answered() -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError) as fault:
        raise _unavailable(fault) from None


@contextmanager
def _found() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (BaseError, OSError) as fault:
        raise _unavailable(fault) from None


def _unavailable(fault: Exception) -> StoreUnavailable:
    return StoreUnavailable(f"the object store: {_first_line(fault)}")


def _first_line(fault: Exception) -> str:
    # The rest is obstore's own state, for its developers.
    return str(fault).partition("\n")[0]
