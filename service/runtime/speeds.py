"""How quickly jobs are trained here."""

from collections import deque
from statistics import median

from service.training.spec import Method

REMEMBERED = 101
"""Steps of a method, of whichever jobs."""


class Speeds:
    """The tokens/s of the latest optimizer steps, as a job gets them: beside others, its share.

    Any thread may note.
    """

    def __init__(self) -> None:
        self._steps: dict[Method, deque[float]] = {}

    def note(self, method: Method, tokens_per_second: float) -> None:
        """Remember a step."""
        self._steps.setdefault(method, deque(maxlen=REMEMBERED)).append(tokens_per_second)

    def usual(self) -> dict[Method, float]:
        """Give the median for each method that was trained by."""
        # Copied first: a deque that grows cannot be walked.
        noted = {method: tuple(steps.copy()) for method, steps in self._steps.copy().items()}
        return {method: median(steps) for method, steps in noted.items()}
