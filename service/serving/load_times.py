"""How long loads took: a histogram in Prometheus' terms. Pure."""

from bisect import bisect_left

import msgspec

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds; beyond the last one there is one more bucket."""


class LoadTimes(msgspec.Struct, frozen=True, kw_only=True):
    """How many loads fell into each bucket, and what all took together."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    seconds: float = 0.0

    def add(self, seconds: float) -> "LoadTimes":
        """Count one more load."""
        counts = list(self.counts)
        counts[bisect_left(BOUNDS, seconds)] += 1
        return LoadTimes(counts=tuple(counts), seconds=self.seconds + seconds)

    def buckets(self) -> list[tuple[str, float]]:
        """Give each bound with the loads that took at most so long."""
        bounds = [*map(str, BOUNDS), "+Inf"]
        return [(bound, sum(self.counts[: at + 1])) for at, bound in enumerate(bounds)]
