"""When keys were last used, written beside the requests and never in their way."""

from typing import Any, cast

from sqlalchemy import Row, Table, bindparam, or_, update
from sqlalchemy.exc import DBAPIError

from service.database import Database
from service.database.models import ApiKeyRow
from service.errors import ServiceError
from service.telemetry import logger
from service.waiting import every

WRITE_SECONDS = 15.0
ACCURACY_SECONDS = 60
"""A key's date is written at most so often, whatever number of processes sees it."""

log = logger(__name__)


class LastUsed:
    """What one process has seen since it last wrote."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: dict[int, int] = {}

    def note(self, key: ApiKeyRow | Row[Any], at: int) -> None:
        """Remember that a key was used, unless its row says so nearly."""
        if key.last_used_at is None or at - key.last_used_at >= ACCURACY_SECONDS:
            self._seen[key.seq] = at

    async def write(self) -> None:
        """Write what was seen; what cannot be written is left for the next time."""
        seen, self._seen = self._seen, {}
        if not seen:
            return
        keys = cast("Table", ApiKeyRow.__table__)
        older = or_(
            keys.c.last_used_at.is_(None), keys.c.last_used_at <= bindparam("at") - ACCURACY_SECONDS
        )
        changed = update(keys).where(keys.c.seq == bindparam("key"), older)
        try:
            async with self._database.write() as session:
                await session.execute(
                    changed.values(last_used_at=bindparam("at")),
                    [{"key": key, "at": at} for key, at in sorted(seen.items())],
                )
        except (ServiceError, DBAPIError, OSError):
            self._seen = seen | self._seen
            log.warning("keys.last_used_not_written", exc_info=True)

    async def run(self) -> None:
        """Write for ever, and once more at the end."""
        try:
            await every(WRITE_SECONDS, self.write)
        finally:
            await self.write()
