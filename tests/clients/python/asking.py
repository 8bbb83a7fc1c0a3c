"""Ways to ask that the scenarios share."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(probe: Callable[[], T | None], seconds: float = 60) -> T:
    """Ask until the answer is true, or fail."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := probe():
            return answer
        time.sleep(0.05)
    raise AssertionError("it never came")


def repeatedly(ask: Callable[[], object]) -> None:
    """Ask more often than a limit of one a minute can allow, whenever the minute ends."""
    for _ in range(3):
        ask()
