"""From the rows that say what is pinned to the engine that keeps it resident."""

from service.adapters.pins import PinRepository, ref_of
from service.database import Database
from service.serving.engine import Engine
from service.telemetry import logger

_log = logger(__name__)


async def tell_pins(engine: Engine, database: Database, places: int) -> None:
    """Have the engine pin what the database says, and nothing else.

    Raises EngineUnavailable, and Conflict from an engine of fewer than `places`.
    """
    async with database.read() as session:
        refs = [ref_of(row) for row in await PinRepository(session).pinned()]
    if len(refs) >= places:
        # The operator has made the engine smaller since.
        _log.warning("pins.too_many", pinned=len(refs), places=places)
    await engine.pin(refs[: places - 1])
