"""Go through a whole store: find what is damaged or orphaned, and remove the orphans."""

from collections.abc import Iterator

import msgspec

from adapters_store.errors import InvalidAdapter, RevisionNotFound
from adapters_store.store import AdapterStore, Orphan

SETTLED_SECONDS = 3600.0
"""Content that is younger, without a manifest, may belong to a publish at work."""


class Finding(msgspec.Struct, frozen=True):
    """Something that should not be as it is."""

    where: str
    what: str


def check(store: AdapterStore, now: float, tenant: str | None = None) -> Iterator[Finding]:
    """Open every revision, which verifies its digests, and look for orphans.

    The store must be fresh, its cache included: what it verified before it may not read again.
    """
    for name in _tenants(store, tenant):
        for ref in store.list(name):
            try:
                store.open(ref)
            except InvalidAdapter as fault:
                yield Finding(f"{ref.tenant}/{ref.adapter}/{ref.digest}", f"damaged: {fault}")
            except RevisionNotFound:
                continue  # deleted since it was listed
    for orphan in orphans(store, now, tenant):
        yield Finding(orphan.where, "orphaned: no revision speaks of it")


def collect(store: AdapterStore, now: float, tenant: str | None = None) -> Iterator[str]:
    """Remove the orphans and tell where they were."""
    for orphan in orphans(store, now, tenant):
        orphan.remove()
        yield orphan.where


def orphans(store: AdapterStore, now: float, tenant: str | None = None) -> Iterator[Orphan]:
    """Walk what is settled and no revision speaks of."""
    for name in _tenants(store, tenant):
        yield from store.orphans(name, now - SETTLED_SECONDS)


def _tenants(store: AdapterStore, tenant: str | None) -> list[str]:
    return [*store.tenants()] if tenant is None else [tenant]
