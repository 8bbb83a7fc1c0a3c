"""Ends what is under way for keys that are no good any more, whichever process was told of it.

New requests are refused at once, because each reads its key's row. This is for streams and other
long answers: they end within two looks.
"""

from sqlalchemy import or_, select

from service.database import Database
from service.database.faults import AWAY
from service.database.models import ApiKeyRow
from service.errors import Unauthenticated
from service.http.in_flight import InFlight
from service.telemetry import logger
from service.waiting import every
from service.wire import now

LOOK_SECONDS = 2.5

log = logger(__name__)


class KeyWatch:
    """Of one process."""

    def __init__(self, database: Database, in_flight: InFlight) -> None:
        self._database = database
        self._in_flight = in_flight
        self._bad: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Look for ever."""
        await every(LOOK_SECONDS, self.look)

    async def look(self) -> None:
        """End the requests of keys that were bad the last time already: short ones may end."""
        try:
            bad = await self._no_good(self._in_flight.keys())
        except AWAY:
            log.warning("keys.not_watched", exc_info=True)
            return
        cut = self._in_flight.cut(bad & self._bad, Unauthenticated("The API key has ended."))
        if cut:
            log.info("keys.requests_cut", requests=cut)
        self._bad = bad

    async def _no_good(self, keys: frozenset[str]) -> frozenset[str]:
        if not keys:
            return keys
        lives = or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > now())
        good = select(ApiKeyRow.id).where(
            ApiKeyRow.id.in_(keys), ApiKeyRow.revoked_at.is_(None), lives
        )
        async with self._database.read() as session:
            return keys - frozenset(await session.scalars(good))
