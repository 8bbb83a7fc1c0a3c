"""Waiting for something to happen, and not for ever."""

import asyncio
import contextlib


async def pass_time(until: asyncio.Event, seconds: float) -> None:
    """Return when the event is set, at the latest after so many seconds."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(until.wait(), seconds)
