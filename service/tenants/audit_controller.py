"""`/v1/admin/audit`, for the operator; `/v1/audit`, which needs the scope `admin`."""

from typing import Annotated

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from service.http.errors import errors
from service.tenants.audit_schemas import AuditList
from service.tenants.auditing import AuditService
from service.tenants.auth import requires, requires_admin

MOST = 100

Audits = NamedDependency[AuditService]
Whose = Annotated[str | None, QueryParameter(description="Only what concerns this tenant.")]
After = Annotated[str | None, QueryParameter(description="`last_id` of the page before this one.")]
Limit = Annotated[int, QueryParameter(ge=1, le=MOST, description="Most lines to give.")]


class AuditController(Controller):
    """Administration: the admin key only."""

    path = "/v1/admin/audit"
    tags = ["Administration"]
    guards = [requires_admin]

    @get(operation_id="listAudit", summary="List who changed what", responses=errors())
    async def list_audit(
        self, audits: Audits, tenant: Whose = None, after: After = None, limit: Limit = 20
    ) -> AuditList:
        """List the requests that changed something or were to, newest first.

        Refused ones are there too, but those that were one too many (429) and those without a
        good key. What was done to a tenant stays when the tenant goes.
        """
        return await audits.all(tenant, after, limit)


class OwnAuditController(Controller):
    """A tenant's own lines."""

    path = "/v1/audit"
    tags = ["Audit"]
    guards = [requires("admin")]

    @get(operation_id="listOwnAudit", summary="List who changed what", responses=errors())
    async def list_own_audit(
        self,
        tenant_id: NamedDependency[str],
        audits: Audits,
        after: After = None,
        limit: Limit = 20,
    ) -> AuditList:
        """List the requests that changed something of the tenant's or were to, newest first."""
        return await audits.own(tenant_id, after, limit)
