"""What the operator sends and gets."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from service.tenants.limits import OwnLimits
from service.tenants.names import NAME
from service.tenants.principal import Scope
from service.wire import Input, Output

LATEST = 253_402_300_799
"""The year 9999 ends."""
MOST_OVERLAP = 30 * 86400

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


class UpdateTenant(Input):
    """What to change of a tenant; what is absent stays."""

    weight: (
        Annotated[
            float,
            Meta(
                ge=0.001,
                le=1000,
                description="Its share of training and generation, against the others' weights.",
            ),
        ]
        | UnsetType
    ) = UNSET
    limits: OwnLimits | UnsetType | None = UNSET
    """All of its own limits. Those that are absent, and all if it is null, are the server's."""


class CreateKey(Input):
    """A new key of a tenant. Without `scopes` it may do everything but administer."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    scopes: Annotated[list[Scope], Meta(min_length=1)] | None = None
    expires_at: (
        Annotated[int, Meta(ge=0, le=LATEST, description="Unix time, in the future.")] | None
    ) = None


class RotateKey(Input):
    """How a key is replaced."""

    overlap_seconds: Annotated[
        int,
        Meta(ge=0, le=MOST_OVERLAP, description="For how long both keys are good."),
    ] = 86400


class Tenant(Output):
    """A customer of the operator."""

    id: str
    object: Literal["tenant"]
    created_at: int
    weight: float
    limits: Annotated[
        dict[str, int | None] | None,
        Meta(description="Its own limits, null for none; all others are the server's defaults."),
    ]


class TenantLimits(Output):
    """What holds for a tenant, and how much of it is used."""

    object: Literal["tenant.limits"]
    tenant: str
    weight: float
    limits: Annotated[dict[str, int | None], Meta(description="Null: there is no limit.")]
    used: Annotated[
        dict[str, int],
        Meta(description="Of the quotas. Unfinished jobs and uploads count with what they need."),
    ]


class ApiKey(Output):
    """A key, without the key: `hint` is its end, to tell keys apart."""

    id: str
    object: Literal["api_key"]
    tenant: str
    name: str
    hint: str
    scopes: list[Scope]
    created_at: int
    expires_at: int | None
    last_used_at: Annotated[int | None, Meta(description="To the minute.")]
    revoked_at: int | None
    replaced_by: Annotated[
        str | None, Meta(description="The key that it was rotated to; it goes on until it expires.")
    ]


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
