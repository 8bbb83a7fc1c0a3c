"""What can go wrong in the store. No HTTP here.

AdapterStoreError
├── InvalidName        a tenant, adapter or file name that could not be a path segment of ours
├── InvalidLocation    no store can be at that path or URL
├── RevisionNotFound
├── StoreUnavailable   the disk or the cloud does not answer, or refuses; it may later
└── InvalidAdapter     the files are not a whole, finite, plain LoRA adapter, or do not match
                       their manifest
"""


class AdapterStoreError(Exception):
    """Base of the store's errors."""


class InvalidName(AdapterStoreError):
    """The name does not match the house's pattern."""


class InvalidLocation(AdapterStoreError):
    """The path or URL names no store."""


class RevisionNotFound(AdapterStoreError):
    """No published revision at that reference."""


class StoreUnavailable(AdapterStoreError):
    """Where the store keeps its things cannot be reached, read or written now."""


class InvalidAdapter(AdapterStoreError):
    """The files are damaged, incomplete, or not what the manifest says."""
