"""Where adapters live between training and serving. Stands alone: imports nothing of `service`."""

from adapters_store.errors import (
    AdapterStoreError,
    InvalidAdapter,
    InvalidName,
    RevisionNotFound,
)
from adapters_store.filesystem import FilesystemAdapterStore
from adapters_store.memory import MemoryAdapterStore
from adapters_store.models import FileEntry, Manifest, Origin, RevisionRef
from adapters_store.store import AdapterStore, Revision

__all__ = [
    "AdapterStore",
    "AdapterStoreError",
    "FileEntry",
    "FilesystemAdapterStore",
    "InvalidAdapter",
    "InvalidName",
    "Manifest",
    "MemoryAdapterStore",
    "Origin",
    "Revision",
    "RevisionNotFound",
    "RevisionRef",
]
