"""How processes share what a limit allows without a write for each request. Pure.

A process draws a portion of what nobody has yet, and spends it by itself. Portions shrink with
what is left, so that near the limit little lies with whoever does not need it.
"""

import msgspec

SHARE = 8
"""A portion is one in so many of what is left."""


def portion(limit: int, given: int, lack: int) -> int:
    """Tell how much to draw where `given` is drawn already: at least `lack`, or nothing."""
    left = limit - given
    if lack > left:
        return 0
    return lack + (left - lack) // SHARE


def surplus(limit: int, spare: int) -> int:
    """Tell how much of what lies ready is more than a process should keep."""
    return max(0, spare - limit // SHARE)


class Standing(msgspec.Struct, frozen=True):
    """How a tenant stands against one rate limit."""

    kind: str
    """`requests` or `tokens`, as OpenAI's headers say it."""
    limit: int
    remaining: int
    resets_in: float
    """Seconds."""

    @property
    def headers(self) -> dict[str, str]:
        """OpenAI's headers."""
        return {
            f"x-ratelimit-limit-{self.kind}": str(self.limit),
            f"x-ratelimit-remaining-{self.kind}": str(max(0, self.remaining)),
            f"x-ratelimit-reset-{self.kind}": duration(self.resets_in),
        }


def duration(seconds: float) -> str:
    """Write a time as OpenAI's headers do: `17ms`, `8.64s`, `6m0s`."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 2), 60)
    return f"{int(minutes)}m{round(rest)}s" if minutes else f"{round(rest, 2):g}s"
