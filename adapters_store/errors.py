"""What can go wrong in the store. No HTTP here.

AdapterStoreError
├── InvalidName        a tenant, adapter or file name that could not be a path segment of ours
├── RevisionNotFound
└── InvalidAdapter     the files are not a whole, finite, plain LoRA adapter, or do not match
                       their manifest
"""


class AdapterStoreError(Exception):
    """Base of the store's errors."""


class InvalidName(AdapterStoreError):
    """The name does not match the house's pattern."""


class RevisionNotFound(AdapterStoreError):
    """No published revision at that reference."""


class InvalidAdapter(AdapterStoreError):
    """The files are damaged, incomplete, or not what the manifest says."""
