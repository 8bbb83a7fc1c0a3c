"""`/v1/adapters`. Every route needs the scope `adapters`."""

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from service.adapters.adapters import AdapterService
from service.adapters.adapters_schemas import (
    Adapter,
    AdapterList,
    AdapterRevision,
    AdapterRevisionList,
    Lineage,
)
from service.adapters.aliases_controller import After, Limit
from service.http.errors import errors
from service.tenants.auth import requires

Adapters = NamedDependency[AdapterService]
TenantId = NamedDependency[str]


class AdapterController(Controller):
    """A tenant's adapters, and their revisions."""

    path = "/v1/adapters"
    tags = ["adapters"]
    guards = [requires("adapters")]

    @get(operation_id="listAdapters", responses=errors())
    async def list_adapters(
        self, tenant_id: TenantId, adapters: Adapters, after: After = None, limit: Limit = 20
    ) -> AdapterList:
        """List adapters, newest first, each with its newest revision and its aliases."""
        return await adapters.list(tenant_id, after, limit)

    @get("/{adapter:str}", operation_id="retrieveAdapter", responses=errors(404))
    async def retrieve_adapter(
        self, adapter: FromPath[str], tenant_id: TenantId, adapters: Adapters
    ) -> Adapter:
        """Show an adapter."""
        return await adapters.retrieve(tenant_id, adapter)

    @get("/{adapter:str}/revisions", operation_id="listRevisions", responses=errors(404))
    async def list_revisions(
        self,
        adapter: FromPath[str],
        tenant_id: TenantId,
        adapters: Adapters,
        after: After = None,
        limit: Limit = 20,
    ) -> AdapterRevisionList:
        """List an adapter's revisions, newest first, checkpoints included."""
        return await adapters.revisions(tenant_id, adapter, after, limit)

    @get(
        "/{adapter:str}/revisions/{rev:str}", operation_id="retrieveRevision", responses=errors(404)
    )
    async def retrieve_revision(
        self, adapter: FromPath[str], rev: FromPath[str], tenant_id: TenantId, adapters: Adapters
    ) -> AdapterRevision:
        """Show a revision, by its short name or its whole digest."""
        return await adapters.revision(tenant_id, adapter, rev)

    @get(
        "/{adapter:str}/revisions/{rev:str}/lineage",
        operation_id="retrieveLineage",
        responses=errors(404),
    )
    async def retrieve_lineage(
        self, adapter: FromPath[str], rev: FromPath[str], tenant_id: TenantId, adapters: Adapters
    ) -> Lineage:
        """Walk back from a revision to its job, its datasets and its parents, and on to theirs."""
        return await adapters.lineage(tenant_id, adapter, rev)
