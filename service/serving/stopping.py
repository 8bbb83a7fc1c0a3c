"""Stop strings, matched while text arrives. Pure."""

from collections.abc import Iterable


class StopMatcher:
    """Passes text on until a stop string is complete; never lets out a part of one.

    The match that is complete first counts, and of two complete at the same character the longer:
    so the result does not depend on how the text was cut into pieces.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = sorted({stop for stop in stops if stop}, key=len, reverse=True)
        self._held = ""
        self.stopped = False

    def add(self, text: str) -> str:
        """Take more text; return what can be let out now."""
        if not self._stops:
            return text
        if self.stopped:
            return ""
        before, self._held = len(self._held), self._held + text
        for end in range(before + 1, len(self._held) + 1):
            for stop in self._stops:
                if self._held.endswith(stop, 0, end):
                    return self._stop_at(end - len(stop))
        return self._let_out(len(self._held) - self._suspect())

    def flush(self) -> str:
        """Return what was held back, the text having ended without a stop string."""
        return self._let_out(len(self._held))

    def _stop_at(self, start: int) -> str:
        out, self._held, self.stopped = self._held[:start], "", True
        return out

    def _let_out(self, length: int) -> str:
        out, self._held = self._held[:length], self._held[length:]
        return out

    def _suspect(self) -> int:
        """Length of the longest tail that may be the beginning of a stop string."""
        longest = min(len(self._held), len(self._stops[0]) - 1)
        for length in range(longest, 0, -1):
            tail = self._held[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
