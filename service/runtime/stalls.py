"""How many tokens a training row may have, so that generation never waits long for it. Pure."""

from collections import deque
from statistics import median_low

FEWEST = 128
"""Tokens of a row under which it would be mostly overhead."""
REMEMBERS = 15
"""Rows, and generation's turns."""
USUAL_STEP = 0.01
"""Seconds, until there was one."""


class Stalls:
    """Learns, from row to row, how long training's longest stretch without a pause is per token.

    That stretch is one layer's product, its attention, or the loss of some rows: all grow with the
    tokens of the row. What is rare or not ours (a checkpoint, a core that others take) only makes
    it longer, so the quietest quarter of the last rows counts.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        """Keep stretches under `seconds`; 0 is half of a generation step."""
        self._seconds = seconds
        self._steps = deque([USUAL_STEP], REMEMBERS)
        self._per_token: deque[float] = deque(maxlen=REMEMBERS)

    @property
    def seconds(self) -> float:
        """How long a stretch may be."""
        return self._seconds or median_low(self._steps) / 2

    def generated(self, seconds: float) -> None:
        """Note a step of generation's."""
        self._steps.append(seconds)

    def went(self, longest: float, tokens: int) -> None:
        """Note the longest stretch of a row."""
        if tokens:
            self._per_token.append(longest / tokens)

    def tokens(self, most: int) -> int:
        """Tell how many of at most `most` tokens a row may have."""
        if not self._per_token:
            return min(most, FEWEST)
        usual = sorted(self._per_token)[len(self._per_token) // 4]
        return min(most, max(FEWEST, int(self.seconds / usual) if usual else most))
