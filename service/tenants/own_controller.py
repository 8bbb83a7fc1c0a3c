"""What a tenant administers itself, by a key of its own with the scope `admin`."""

from litestar import Controller, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from service.http.errors import errors
from service.tenants.auth import requires
from service.tenants.idempotency import IDEMPOTENT
from service.tenants.present import keys_of, limits_of, new_key_of
from service.tenants.schemas import ApiKeyList, CreateKey, NewApiKey, RotateKey, TenantLimits
from service.tenants.service import TenantService
from service.wire import Deleted

Tenants = NamedDependency[TenantService]
TenantId = NamedDependency[str]


class OwnKeyController(Controller):
    """The tenant's own keys. A key may make others with scopes that it has not: it administers."""

    path = "/v1/keys"
    tags = ["Keys and limits"]
    guards = [requires("admin")]

    @post(
        operation_id="createOwnApiKey",
        summary="Create an API key",
        opt={IDEMPOTENT: True},
        responses=errors(409),
    )
    async def create_own_key(
        self, data: JSONBody[CreateKey], tenant_id: TenantId, tenants: Tenants
    ) -> NewApiKey:
        """Make a key of the tenant. The key is in this answer and nowhere else: keep it."""
        return new_key_of(*await tenants.create_key(tenant_id, data))

    @get(operation_id="listOwnApiKeys", summary="List API keys", responses=errors())
    async def list_own_keys(self, tenant_id: TenantId, tenants: Tenants) -> ApiKeyList:
        """List the tenant's keys, revoked ones too, without the keys themselves."""
        return keys_of(await tenants.keys(tenant_id))

    @post(
        "/{key_id:str}/rotate",
        operation_id="rotateOwnApiKey",
        summary="Rotate an API key",
        opt={IDEMPOTENT: True},
        responses=errors(404, 409),
    )
    async def rotate_own_key(
        self,
        key_id: FromPath[str],
        data: JSONBody[RotateKey],
        tenant_id: TenantId,
        tenants: Tenants,
    ) -> NewApiKey:
        """Make a key that replaces another one of the tenant; both are good for the overlap."""
        return new_key_of(*await tenants.rotate(tenant_id, key_id, data.overlap_seconds))

    @delete(
        "/{key_id:str}",
        operation_id="revokeOwnApiKey",
        summary="Revoke an API key",
        status_code=200,
        responses=errors(404),
    )
    async def revoke_own_key(
        self, key_id: FromPath[str], tenant_id: TenantId, tenants: Tenants
    ) -> Deleted:
        """Revoke a key: it is refused from the next request on."""
        await tenants.revoke(tenant_id, key_id)
        return Deleted(id=key_id, object="api_key", deleted=True)


class OwnLimitsController(Controller):
    """The tenant's own limits."""

    path = "/v1/limits"
    tags = ["Keys and limits"]
    guards = [requires("admin")]

    @get(operation_id="getOwnLimits", summary="Show limits and use", responses=errors())
    async def get_own_limits(self, tenant_id: TenantId, tenants: Tenants) -> TenantLimits:
        """Show the quotas and rate limits that hold, and how much of the quotas is used."""
        return limits_of(*await tenants.limits(tenant_id))
