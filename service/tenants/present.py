"""Tenants and keys, as answers show them."""

from collections.abc import Sequence
from typing import Any

import msgspec

from service.database.models import ApiKeyRow, TenantRow
from service.tenants.limits import Limits
from service.tenants.quotas import Use
from service.tenants.schemas import ApiKey, ApiKeyList, NewApiKey, Tenant, TenantLimits


def tenant_of(row: TenantRow) -> Tenant:
    """Show a tenant."""
    return Tenant(
        id=row.id,
        object="tenant",
        created_at=row.created_at,
        weight=row.weight,
        limits=row.limits,
    )


def limits_of(row: TenantRow, limits: Limits, used: Use) -> TenantLimits:
    """Show what holds for a tenant."""
    return TenantLimits(
        object="tenant.limits",
        tenant=row.id,
        weight=row.weight,
        limits=msgspec.structs.asdict(limits),
        used=msgspec.structs.asdict(used),
    )


def new_key_of(row: ApiKeyRow, key: str) -> NewApiKey:
    """Show a key, this once."""
    return NewApiKey(**_fields(row), key=key)


def keys_of(rows: Sequence[ApiKeyRow]) -> ApiKeyList:
    """Show keys without themselves."""
    return ApiKeyList(object="list", data=[ApiKey(**_fields(row)) for row in rows])


def _fields(row: ApiKeyRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": "api_key",
        "tenant": row.tenant_id,
        "name": row.name,
        "hint": row.hint,
        "scopes": row.scopes,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "last_used_at": row.last_used_at,
        "revoked_at": row.revoked_at,
        "replaced_by": row.replaced_by,
    }
