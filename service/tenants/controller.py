"""The operator's routes: tenants and their keys."""

from litestar import Controller, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from service.http.errors import errors
from service.tenants.auth import requires_admin
from service.tenants.idempotency import IDEMPOTENT
from service.tenants.present import keys_of, limits_of, new_key_of, tenant_of
from service.tenants.schemas import (
    ApiKeyList,
    CreateKey,
    CreateTenant,
    NewApiKey,
    RotateKey,
    Tenant,
    TenantLimits,
    TenantList,
    UpdateTenant,
)
from service.tenants.service import TenantService
from service.wire import Deleted

Tenants = NamedDependency[TenantService]


class TenantController(Controller):
    """Administration: the admin key only."""

    path = "/v1/admin/tenants"
    tags = ["Administration"]
    guards = [requires_admin]

    @post(operation_id="createTenant", summary="Create a tenant", responses=errors(409))
    async def create_tenant(self, data: JSONBody[CreateTenant], tenants: Tenants) -> Tenant:
        """Add a tenant. Its id names it in paths and in the models that it fine-tunes."""
        return tenant_of(await tenants.create(data.id))

    @get(operation_id="listTenants", summary="List tenants", responses=errors())
    async def list_tenants(self, tenants: Tenants) -> TenantList:
        """List all tenants, oldest first."""
        return TenantList(object="list", data=[tenant_of(row) for row in await tenants.all()])

    @get(
        "/{tenant:str}",
        operation_id="retrieveTenant",
        summary="Retrieve a tenant",
        responses=errors(404),
    )
    async def retrieve_tenant(self, tenant: FromPath[str], tenants: Tenants) -> Tenant:
        """Show one tenant."""
        return tenant_of(await tenants.get(tenant))

    @patch(
        "/{tenant:str}",
        operation_id="updateTenant",
        summary="Change a tenant's weight and limits",
        responses=errors(404, 409),
    )
    async def update_tenant(
        self, tenant: FromPath[str], data: JSONBody[UpdateTenant], tenants: Tenants
    ) -> Tenant:
        """Change what a tenant may have and do, from the next request and the next job on."""
        return tenant_of(await tenants.update(tenant, data))

    @get(
        "/{tenant:str}/limits",
        operation_id="getTenantLimits",
        summary="Show a tenant's limits and use",
        responses=errors(404),
    )
    async def get_limits(self, tenant: FromPath[str], tenants: Tenants) -> TenantLimits:
        """Show the quotas and rate limits that hold, and how much of the quotas is used."""
        return limits_of(*await tenants.limits(tenant))

    @post(
        "/{tenant:str}/keys",
        operation_id="createApiKey",
        summary="Create an API key",
        opt={IDEMPOTENT: True},
        responses=errors(404, 409),
    )
    async def create_key(
        self,
        tenant: FromPath[str],
        data: JSONBody[CreateKey],
        tenants: Tenants,
    ) -> NewApiKey:
        """Make a key for a tenant. The key is in this answer and nowhere else: keep it."""
        return new_key_of(*await tenants.create_key(tenant, data))

    @get(
        "/{tenant:str}/keys",
        operation_id="listApiKeys",
        summary="List API keys",
        responses=errors(404),
    )
    async def list_keys(self, tenant: FromPath[str], tenants: Tenants) -> ApiKeyList:
        """List a tenant's keys, revoked ones too, without the keys themselves."""
        return keys_of(await tenants.keys(tenant))

    @post(
        "/{tenant:str}/keys/{key_id:str}/rotate",
        operation_id="rotateApiKey",
        summary="Rotate an API key",
        opt={IDEMPOTENT: True},
        responses=errors(404, 409),
    )
    async def rotate_key(
        self,
        tenant: FromPath[str],
        key_id: FromPath[str],
        data: JSONBody[RotateKey],
        tenants: Tenants,
    ) -> NewApiKey:
        """Make a key of the same name, scopes and expiry that replaces another.

        Both are good for the overlap; then the old one has expired.
        """
        return new_key_of(*await tenants.rotate(tenant, key_id, data.overlap_seconds))

    @delete(
        "/{tenant:str}/keys/{key_id:str}",
        operation_id="revokeApiKey",
        summary="Revoke an API key",
        status_code=200,
        responses=errors(404),
    )
    async def revoke_key(
        self, tenant: FromPath[str], key_id: FromPath[str], tenants: Tenants
    ) -> Deleted:
        """Revoke a key: it is refused from the next request on."""
        await tenants.revoke(tenant, key_id)
        return Deleted(id=key_id, object="api_key", deleted=True)
