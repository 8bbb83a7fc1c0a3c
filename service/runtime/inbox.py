"""What has come of one call and was not taken yet."""

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from service.errors import ServiceError
from service.runtime.messages import FromRuntime, Generated
from service.serving.engine import Piece

End = FromRuntime | ServiceError


class Inbox:
    """Whoever falls behind takes all that came meanwhile at once, and so catches up."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._end: End | None = None
        self._some = asyncio.Event()

    def put(self, message: End) -> None:
        """Keep a piece, or what ends the call."""
        if isinstance(message, Generated):
            self._pieces.append(message.piece)
        else:
            self._end = message
        self._some.set()

    async def take(self) -> tuple[Sequence[Piece], End | None]:
        """Wait for something; give one piece for each choice, and the end once it has come."""
        await self._some.wait()
        self._some.clear()
        pieces, self._pieces = self._pieces, []
        return joined(pieces), self._end


def joined(pieces: Sequence[Piece]) -> Sequence[Piece]:
    """Make one piece of all that came of a choice. Pure."""
    if len(pieces) == 1:
        return pieces
    found: dict[int, list[Piece]] = {}
    for piece in pieces:
        found.setdefault(piece.index, []).append(piece)
    return [_one(of_choice) for of_choice in found.values()]


def _one(pieces: Sequence[Piece]) -> Piece:
    first, last = pieces[0], pieces[-1]
    told = [piece.logprobs for piece in pieces if piece.logprobs is not None]
    return replace(
        last,
        text="".join(piece.text for piece in pieces),
        logprobs=[entry for some in told for entry in some] if told else None,
        queued=first.queued,
    )
