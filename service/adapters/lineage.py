"""From a revision back to the jobs, datasets and parents that it was made of."""

import asyncio
from collections import deque

import msgspec

from adapters_store import (
    AdapterStore,
    InvalidAdapter,
    Manifest,
    RevisionNotFound,
    RevisionRef,
    StoreUnavailable,
)
from service.adapters.adapters_repository import AdapterRepository
from service.adapters.adapters_schemas import Ancestor, Lineage, RevisionOrigin
from service.database import Database
from service.errors import AdaptersUnavailable


async def lineage(database: Database, store: AdapterStore, ref: RevisionRef) -> Lineage:
    """Walk the manifests, each revision once, within the tenant.

    A revision that was deleted, or is damaged, is told as such and ends its branch.
    """
    ancestors: list[Ancestor] = []
    seen, ahead = {ref.digest}, deque([ref.digest])
    while ahead:
        digest = ahead.popleft()
        adapter = ref.adapter if digest == ref.digest else None
        ancestor = await _ancestor(database, store, ref.tenant, adapter, digest)
        ancestors.append(ancestor)
        parents = [] if ancestor.origin is None else ancestor.origin.parents
        ahead.extend(parent for parent in parents if parent not in seen)
        seen.update(parents)
    return Lineage(object="list", data=ancestors)


async def _ancestor(
    database: Database, store: AdapterStore, tenant: str, adapter: str | None, digest: str
) -> Ancestor:
    if adapter is None:
        async with database.read() as session:
            row = await AdapterRepository(session).by_digest(tenant, digest)
        if row is None:
            return Ancestor(digest=digest, adapter=None, state="deleted", origin=None)
        adapter = row.adapter
    try:
        revision = await asyncio.to_thread(store.open, RevisionRef(tenant, adapter, digest))
    except RevisionNotFound:
        return Ancestor(digest=digest, adapter=adapter, state="deleted", origin=None)
    except StoreUnavailable:
        raise AdaptersUnavailable from None
    except InvalidAdapter:
        return Ancestor(digest=digest, adapter=adapter, state="damaged", origin=None)
    origin = _origin(revision.manifest)
    return Ancestor(digest=digest, adapter=adapter, state="present", origin=origin)


def _origin(manifest: Manifest) -> RevisionOrigin:
    shown = msgspec.structs.asdict(manifest.origin)
    return RevisionOrigin(created_at=manifest.created_at, **shown)
