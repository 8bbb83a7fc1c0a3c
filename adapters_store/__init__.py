"""Where adapters live between training and serving. Stands alone: imports nothing of `service`."""

from adapters_store.errors import (
    AdapterStoreError,
    InvalidAdapter,
    InvalidLocation,
    InvalidName,
    RevisionNotFound,
    StoreUnavailable,
)
from adapters_store.filesystem import FilesystemAdapterStore
from adapters_store.memory import MemoryAdapterStore
from adapters_store.merged import MergedModel
from adapters_store.models import (
    FileEntry,
    Manifest,
    MergedManifest,
    MergedRef,
    MergeOrigin,
    Origin,
    RevisionRef,
)
from adapters_store.objects import ObjectAdapterStore
from adapters_store.opening import open_store
from adapters_store.store import AdapterStore, Orphan, Revision
from adapters_store.tensors import is_blank

__all__ = [
    "AdapterStore",
    "AdapterStoreError",
    "FileEntry",
    "FilesystemAdapterStore",
    "InvalidAdapter",
    "InvalidLocation",
    "InvalidName",
    "Manifest",
    "MemoryAdapterStore",
    "MergeOrigin",
    "MergedManifest",
    "MergedModel",
    "MergedRef",
    "ObjectAdapterStore",
    "Origin",
    "Orphan",
    "Revision",
    "RevisionNotFound",
    "RevisionRef",
    "StoreUnavailable",
    "is_blank",
    "open_store",
]
