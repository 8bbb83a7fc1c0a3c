"""Labels of tenants in metrics: as many as are bearable, and one for all the rest."""

OTHER = "_other"
"""No tenant's name begins with an underscore."""
NOBODY = "_none"
"""The operator, and whoever has no good key."""


class TenantLabels:
    """The first `limit` tenants of a process have labels of their own, for as long as it lives.

    One for all metrics of a process, so that a tenant has its own label in all of them or in none.
    """

    def __init__(self, limit: int = 100) -> None:
        self._limit = limit
        self._own: set[str] = set()

    def label(self, tenant_id: str | None) -> str:
        """Give the tenant's label; call it from one thread."""
        if not tenant_id:
            return NOBODY
        if tenant_id not in self._own:
            if len(self._own) >= self._limit:
                return OTHER
            self._own.add(tenant_id)
        return tenant_id
