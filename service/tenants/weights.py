"""What a tenant weighs against the others when answers are generated."""

import time
from collections.abc import Callable

from service.database import Database
from service.tenants.repository import TenantRepository

SECONDS = 10.0
"""An operator's change is heard of after so long: no answer waits for the database for it."""
MOST = 4096


class TenantWeights:
    """Remembers weights for a while. `clock` gives seconds."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._known: dict[str, tuple[float, float]] = {}

    async def of(self, tenant_id: str) -> float:
        """Tell a tenant's weight. Raises NotFound."""
        weight, read_at = self._known.get(tenant_id, (0.0, float("-inf")))
        if self._clock() - read_at < SECONDS:
            return weight
        async with self._database.read() as session:
            weight = (await TenantRepository(session).get(tenant_id)).weight
        self._known.pop(tenant_id, None)
        self._known[tenant_id] = (weight, self._clock())
        if len(self._known) > MOST:
            del self._known[next(iter(self._known))]
        return weight
