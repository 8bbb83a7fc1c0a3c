"""The operator's routes to erase a tenant."""

import msgspec
from litestar import Controller, delete, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from service.adapters.aliases_controller import After, Limit
from service.database.models import ErasureRow
from service.erasure.schemas import Erasure, ErasureList
from service.erasure.service import ErasureService
from service.http.errors import errors
from service.tenants.auth import requires_admin
from service.tenants.controller import TenantController
from service.wire import page

Erasures = NamedDependency[ErasureService]


class ErasableTenantController(TenantController):
    """Tenants, and the way they go. One controller: a path's methods cannot be of two."""

    @delete(
        "/{tenant:str}",
        operation_id="eraseTenant",
        summary="Erase a tenant",
        status_code=202,
        responses=errors(404),
    )
    async def erase_tenant(self, tenant: FromPath[str], erasures: Erasures) -> Erasure:
        """Erase a tenant and everything of it. There is no way back.

        Its keys are refused from now on, requests under way get a few seconds, running jobs are
        cancelled, and the rest goes in the background: follow it at `/v1/admin/erasures/{id}`. The
        id cannot be used for a new tenant before it is done.
        """
        return _erasure(await erasures.begin(tenant))


class ErasureController(Controller):
    """Administration: the admin key only."""

    path = "/v1/admin/erasures"
    tags = ["Administration"]
    guards = [requires_admin]

    @get(operation_id="listErasures", summary="List erasures", responses=errors())
    async def list_erasures(
        self, erasures: Erasures, after: After = None, limit: Limit = 20
    ) -> ErasureList:
        """List erasures, newest first."""
        rows, has_more = await erasures.page(after, limit)
        return page(ErasureList, [_erasure(row) for row in rows], has_more=has_more)

    @get(
        "/{erasure_id:str}",
        operation_id="retrieveErasure",
        summary="Retrieve an erasure",
        responses=errors(404),
    )
    async def retrieve_erasure(self, erasure_id: FromPath[str], erasures: Erasures) -> Erasure:
        """Show how far an erasure is, and what there was."""
        return _erasure(await erasures.retrieve(erasure_id))


def _erasure(row: ErasureRow) -> Erasure:
    return msgspec.convert(
        {
            "id": row.id,
            "object": "tenant.erasure",
            "tenant": row.tenant_id,
            "status": row.status,
            "report": row.report,
            "created_at": row.created_at,
            "finished_at": row.finished_at,
        },
        Erasure,
    )
