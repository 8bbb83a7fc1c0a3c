"""Waiting for something to happen, and not for ever."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import NoReturn


def ending() -> asyncio.Event:
    """Give what is set at SIGTERM or SIGINT from now on. In the main thread."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def pass_time(until: asyncio.Event, seconds: float) -> bool:
    """Return when the event is set, at the latest after so many seconds; tells whether it was."""
    # Not `wait_for`: in 3.11 it loses a cancellation that comes beside the event.
    try:
        async with asyncio.timeout(seconds):
            return await until.wait()
    except TimeoutError:
        return False


async def every(seconds: float, work: Callable[[], Awaitable[object]]) -> NoReturn:
    """Do something again and again, with so long before each time, until cancelled."""
    while True:
        await asyncio.sleep(seconds)
        await work()
