"""The operator's routes: tenants and their keys."""

from typing import Any

from litestar import Controller, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from service.database.models import ApiKeyRow, TenantRow
from service.http.errors import errors
from service.tenants.auth import requires_admin
from service.tenants.idempotency import IDEMPOTENT
from service.tenants.schemas import (
    ApiKey,
    ApiKeyList,
    CreateKey,
    CreateTenant,
    NewApiKey,
    Tenant,
    TenantList,
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
        return _tenant(await tenants.create(data.id))

    @get(operation_id="listTenants", summary="List tenants", responses=errors())
    async def list_tenants(self, tenants: Tenants) -> TenantList:
        """List all tenants, oldest first."""
        return TenantList(object="list", data=[_tenant(row) for row in await tenants.all()])

    @get(
        "/{tenant:str}",
        operation_id="retrieveTenant",
        summary="Retrieve a tenant",
        responses=errors(404),
    )
    async def retrieve_tenant(self, tenant: FromPath[str], tenants: Tenants) -> Tenant:
        """Show one tenant."""
        return _tenant(await tenants.get(tenant))

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
        row, key = await tenants.create_key(tenant, data)
        return NewApiKey(**_key_fields(row), key=key)

    @get(
        "/{tenant:str}/keys",
        operation_id="listApiKeys",
        summary="List API keys",
        responses=errors(404),
    )
    async def list_keys(self, tenant: FromPath[str], tenants: Tenants) -> ApiKeyList:
        """List a tenant's keys, revoked ones too, without the keys themselves."""
        rows = await tenants.keys(tenant)
        return ApiKeyList(object="list", data=[ApiKey(**_key_fields(row)) for row in rows])

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


def _tenant(row: TenantRow) -> Tenant:
    return Tenant(id=row.id, object="tenant", created_at=row.created_at)


def _key_fields(row: ApiKeyRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": "api_key",
        "tenant": row.tenant_id,
        "name": row.name,
        "hint": row.hint,
        "scopes": row.scopes,
        "created_at": row.created_at,
        "revoked_at": row.revoked_at,
    }
