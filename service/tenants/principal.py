"""Who is asking."""

from typing import Literal, get_args

import msgspec

from service.tenants.limits import NONE, Limits

Scope = Literal["files", "jobs", "generate", "adapters", "usage", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
DEFAULT_SCOPES: tuple[Scope, ...] = tuple(scope for scope in SCOPES if scope != "admin")


class Principal(msgspec.Struct, frozen=True):
    """The holder of a good key: a tenant with its key's scopes, or the operator."""

    tenant_id: str | None
    """None for the admin key."""
    key_id: str | None
    scopes: frozenset[str]
    limits: Limits = NONE
    weight: float = 1.0
    """The tenant's share of generation, against the others' weights."""

    @property
    def is_admin(self) -> bool:
        """Whether this is the operator, who holds the admin key."""
        return self.tenant_id is None


OPERATOR = Principal(tenant_id=None, key_id=None, scopes=frozenset())
