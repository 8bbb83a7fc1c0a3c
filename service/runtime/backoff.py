"""How long to wait before what failed is tried again. Pure."""

import msgspec


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """Doubles from `first` to `longest` seconds, anew after a life of `healthy` seconds."""

    first: float = 0.2
    longest: float = 10.0
    healthy: float = 30.0

    def next(self, previous: float | None, lived: float) -> float:
        """Give the delay after a life of `lived` seconds that began after `previous`."""
        if previous is None or lived >= self.healthy:
            return self.first
        return min(2 * previous, self.longest)

    def after(self, failures: int) -> float:
        """Give the delay after so many failures in a row, one at least."""
        return min(self.first * 2.0 ** (failures - 1), self.longest)
