"""Go through a whole store: find what is damaged or orphaned, and remove the orphans."""

from collections.abc import Callable, Iterator
from functools import partial

import msgspec

from adapters_store import layout
from adapters_store.errors import InvalidAdapter, RevisionNotFound
from adapters_store.models import MergedRef, RevisionRef
from adapters_store.store import AdapterStore, Orphan

SETTLED_SECONDS = 3600.0
"""Content that is younger, without a manifest, may belong to a publish at work."""


class Finding(msgspec.Struct, frozen=True):
    """Something that should not be as it is."""

    where: str
    what: str


def check(store: AdapterStore, now: float, tenant: str | None = None) -> Iterator[Finding]:
    """Open every revision and merged model, verifying all digests, and look for orphans.

    The store must be fresh, its cache included: what it verified before it may not read again.
    """
    for name in _tenants(store, tenant):
        for ref in store.list(name):
            yield from _opened(ref, partial(store.open, ref))
        for merged in store.list_merged(name):
            yield from _opened(merged, partial(_verify, store, merged))
    for orphan in orphans(store, now, tenant):
        yield Finding(orphan.where, "orphaned: no revision speaks of it")


def _verify(store: AdapterStore, ref: MergedRef) -> None:
    store.open_merged(ref).verify()


def _opened(ref: RevisionRef, open_it: Callable[[], object]) -> Iterator[Finding]:
    try:
        open_it()
    except InvalidAdapter as fault:
        yield Finding("/".join(layout.parts(ref)), f"damaged: {fault}")
    except RevisionNotFound:
        return  # deleted since it was listed


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
