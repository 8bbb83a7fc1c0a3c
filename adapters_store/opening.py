"""From what an operator writes to a store."""

from pathlib import Path

from adapters_store.filesystem import FilesystemAdapterStore
from adapters_store.objects import ObjectAdapterStore
from adapters_store.store import AdapterStore


def open_store(where: str | Path, cache_dir: Path, cache_bytes: int) -> AdapterStore:
    """Open the store at a path or an object store's URL; only the latter has a cache.

    Credentials are read from the environment, under the names of the clouds' own tools. Raises
    InvalidLocation.
    """
    if isinstance(where, Path) or "://" not in where:
        return FilesystemAdapterStore(Path(where).expanduser())
    return ObjectAdapterStore(where, cache_dir, cache_bytes)
