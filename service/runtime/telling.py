"""Tells, from the runtime's start to its end, what it trains on and how quickly."""

import asyncio

from service.base.hardware import Hardware
from service.database.faults import AWAY
from service.jobs.runtimes import Report, RuntimeRepository
from service.runtime.training_parts import Parts
from service.telemetry import logger
from service.waiting import pass_time

TELL_SECONDS = 20
SILENT_SECONDS = 3 * TELL_SECONDS
"""After which it is taken for gone."""

_log = logger(__name__)


async def keep_telling(parts: Parts, hardware: Hardware, stop: asyncio.Event) -> None:
    """Write it down now and again until `stop`, and then that this runtime is no more."""
    while not stop.is_set():
        await _tell(parts, hardware, SILENT_SECONDS)
        await pass_time(stop, TELL_SECONDS)
    await _tell(parts, hardware, 0)


async def _tell(parts: Parts, hardware: Hardware, seconds: int) -> None:
    report = Report(hardware=hardware, tokens_per_second=parts.speeds.usual())
    try:
        async with parts.database.write() as session:
            runtimes = RuntimeRepository(session)
            await runtimes.report(parts.owner, parts.base.name, report, seconds)
    except AWAY:
        # It is for planning only: jobs go on.
        _log.warning("runtime.not_told", exc_info=True)
