"""The operator's route past the publish gate."""

from litestar import Controller, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from service.adapters.adapters import AdapterService
from service.adapters.adapters_schemas import AdapterRevision, OverrideGate
from service.adapters.overriding import Overrides
from service.http.errors import errors
from service.tenants.auth import requires_admin
from service.tenants.principal import Principal

OverrideService = NamedDependency[Overrides]
Adapters = NamedDependency[AdapterService]
Who = NamedDependency[Principal]


class OverrideController(Controller):
    """Administration: the admin key only."""

    path = "/v1/admin/tenants/{tenant:str}/adapters/{adapter:str}/revisions/{rev:str}/override"
    tags = ["Administration"]
    guards = [requires_admin]

    @post(
        operation_id="overrideGate",
        summary="Override the publish gate",
        status_code=200,
        responses=errors(404, 409),
    )
    async def override_gate(
        self,
        tenant: FromPath[str],
        adapter: FromPath[str],
        rev: FromPath[str],
        data: JSONBody[OverrideGate],
        overrides: OverrideService,
        adapters: Adapters,
        principal: Who,
    ) -> AdapterRevision:
        """Let a rejected revision be called and named by aliases, for a reason that is recorded."""
        digest = await overrides.override(tenant, adapter, rev, data.reason, principal.key_id)
        return await adapters.revision(tenant, adapter, digest)
