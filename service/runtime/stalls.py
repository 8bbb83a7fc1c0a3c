"""How many tokens a training row may have, so that generation never waits long for it. Pure."""

FEWEST = 16
"""Tokens of a row under which it would be mostly overhead."""
FORGETS = 0.9
"""How much of the longest stretch so far counts after another row."""


class Stalls:
    """Learns, from row to row, how long training's longest stretch without a pause is per token.

    That stretch is one layer's product, its attention, or the loss of some rows: all grow with the
    tokens of the row.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._per_token = 0.0

    def went(self, longest: float, tokens: int) -> None:
        """Note the longest stretch of a row."""
        found = longest / max(1, tokens)
        self._per_token = max(found, self._per_token * FORGETS)

    def tokens(self, most: int) -> int:
        """Tell how many of at most `most` tokens a row may have."""
        if not self._per_token:
            return most
        return max(FEWEST, min(most, int(self._seconds / self._per_token)))
