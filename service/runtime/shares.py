"""Who has the base next: generation goes first, training keeps its share. Pure."""


class Shares:
    """Counts what training is owed, while both want the base.

    Each second that generation takes is worth `training / (1 - training)` seconds to training,
    which are its own before generation has another turn. So training keeps at least that share of
    the time, and generation waits for it at most that much longer.
    """

    def __init__(self, training: float) -> None:
        """Raise ValueError unless the share is in 0 to 1."""
        if not 0 <= training < 1:
            raise ValueError("training's share is not in 0 to 1")
        self._worth = training / (1 - training)
        self._owed = 0.0

    def patience(self, trained: float) -> float | None:
        """Tell how long who trained for so many seconds waits at most; None is for ever."""
        return trained / self._worth if self._worth else None

    @property
    def generation_may(self) -> bool:
        """Whether generation may have a turn now."""
        return self._owed <= 0

    @property
    def owed(self) -> float:
        """Seconds that are training's before generation has another turn."""
        return max(0.0, self._owed)

    def generated(self, seconds: float) -> None:
        """Note a turn of generation's that training waited for."""
        self._owed += seconds * self._worth

    def trained(self, seconds: float) -> None:
        """Note that training went on; what it took beyond its due, generation has later."""
        if self._owed > 0:
            self._owed -= seconds
