"""What the operator sends and gets."""

from typing import Annotated, Literal

from msgspec import Meta

from service.tenants.names import NAME
from service.tenants.principal import Scope
from service.wire import Input, Output

# Documented here and checked by the service, whose message says it in words.
TenantName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        extra_json_schema={"pattern": f"^{NAME.pattern}$"},
        description="Lower-case letters, digits, `.` and `-`, beginning with a letter or digit.",
    ),
]


class CreateTenant(Input):
    """A new tenant; its id is in paths and model names."""

    id: TenantName


class CreateKey(Input):
    """A new key of a tenant. Without `scopes` it may do everything but administer."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    scopes: Annotated[list[Scope], Meta(min_length=1)] | None = None


class Tenant(Output):
    """A customer of the operator."""

    id: str
    object: Literal["tenant"]
    created_at: int


class ApiKey(Output):
    """A key, without the key: `hint` is its end, to tell keys apart."""

    id: str
    object: Literal["api_key"]
    tenant: str
    name: str
    hint: str
    scopes: list[Scope]
    created_at: int
    revoked_at: int | None


class NewApiKey(ApiKey):
    """A key just made. `key` is shown this once and stored nowhere."""

    key: str


class TenantList(Output):
    """All tenants, oldest first."""

    object: Literal["list"]
    data: list[Tenant]


class ApiKeyList(Output):
    """All keys of a tenant, revoked ones too, oldest first."""

    object: Literal["list"]
    data: list[ApiKey]
