"""When a delivery is tried again: ever later, for a day. Pure."""

from typing import Final

MINUTE, HOUR = 60.0, 3600.0
DAY = 24 * HOUR

DELAYS: Final = (
    5.0,
    30.0,
    2 * MINUTE,
    10 * MINUTE,
    30 * MINUTE,
    1 * HOUR,
    2 * HOUR,
    4 * HOUR,
    6 * HOUR,
    8 * HOUR,
)
"""Seconds from each failed attempt to the next; after the last one it is given up."""
SPREAD = 0.1
"""A delay is longer by up to this share: what failed at once does not come again at once."""


def delay(attempts: int, chance: float) -> float | None:
    """Tell how long to wait after so many failed attempts; None: give up.

    `chance` is uniform in [0, 1).
    """
    if attempts > len(DELAYS):
        return None
    return DELAYS[attempts - 1] * (1 + SPREAD * chance)
