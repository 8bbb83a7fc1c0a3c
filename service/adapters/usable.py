"""Finding a revision that is to be used, not only looked at."""

from service.adapters.missing import revision_not_found
from service.adapters.rejected import revision_rejected
from service.adapters.repository import Named, RevisionRepository


async def usable_revision(
    revisions: RevisionRepository, tenant_id: str, adapter: str, rev: str
) -> Named:
    """Find a revision by its short name or its whole digest.

    Raises NotFound, and Conflict for what the publish gate rejected.
    """
    found = await revisions.revision(tenant_id, adapter, rev)
    if found is None and (rejected := await revisions.rejected(tenant_id, adapter, rev)):
        raise revision_rejected(rejected, "rev")
    if found is None:
        raise revision_not_found(adapter, rev, "rev")
    return found
