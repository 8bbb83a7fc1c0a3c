"""Letting a revision be used though the publish gate rejected it."""

from service.adapters.missing import revision_not_found
from service.adapters.rejected import REJECTED
from service.adapters.repository import RevisionRepository
from service.base.description import BaseDescription
from service.database import Database
from service.errors import Conflict
from service.telemetry import logger

log = logger(__name__)


class Overrides:
    """The operator's decisions about any tenant's revisions."""

    def __init__(self, database: Database, base: BaseDescription) -> None:
        self.database = database
        self.base = base

    async def override(
        self, tenant_id: str, adapter: str, rev: str, reason: str, key_id: str | None
    ) -> str:
        """Give a rejected revision its name; returns its digest. A second time changes nothing.

        Raises NotFound, and Conflict for one that was not rejected.
        """
        async with self.database.write() as session:
            revisions = RevisionRepository(session)
            row = await revisions.row(tenant_id, adapter, rev)
            if row is None:
                raise revision_not_found(adapter, rev)
            if row.status != REJECTED:
                message = f"The revision {adapter}@{row.rev} was not rejected: it can be used."
                raise Conflict(message, param="rev", code="revision_not_rejected")
            name = await revisions.override(row, self.base.name, reason=reason, key_id=key_id)
            digest = row.digest
        log.warning("gate.overridden", tenant=tenant_id, model=name, digest=digest)
        return digest
