"""Keeps the engine's pins as the database says, from the runtime's start on."""

import asyncio

from sqlalchemy.exc import DBAPIError

from service.database import Database
from service.errors import ServiceError
from service.serving.engine import Engine
from service.serving.pinning import tell_pins
from service.telemetry import logger
from service.waiting import pass_time

LOOK_SECONDS = 30.0
"""Between two looks: the API tells of a new pin at once, but nobody of a revision that is gone."""

_log = logger(__name__)


async def keep_pins(engine: Engine, database: Database, places: int, stop: asyncio.Event) -> None:
    """Pin what is to be pinned, now and again, until `stop`."""
    while not stop.is_set():
        try:
            await tell_pins(engine, database, places)
        except (ServiceError, DBAPIError, OSError):
            # The engine closes, or the database does not answer: requests go on.
            _log.warning("pins.not_kept", exc_info=True)
        await pass_time(stop, LOOK_SECONDS)
