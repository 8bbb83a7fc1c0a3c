"""Whose turn it is on a card that two processes share: locks that end with who holds them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from service.database.locks import FOLDER, FileLocks

Side = Literal["serving", "training"]
OTHER: dict[Side, Side] = {"serving": "training", "training": "serving"}
AGAIN_SECONDS = 0.05


class Card:
    """One side's hand on it. Both sides find each other by the data folder."""

    def __init__(self, data_dir: Path, side: Side) -> None:
        self._locks = FileLocks(data_dir.resolve() / FOLDER)
        self._side = side

    @asynccontextmanager
    async def wanted(self) -> AsyncIterator[None]:
        """Let the other side see that this one has something to do."""
        async with self._locks.shared(_wanted(self._side)):
            yield

    async def wanted_by_other(self) -> bool:
        """Tell whether the other side has something to do."""
        async with self._locks.alone(_wanted(OTHER[self._side])) as nobody:
            return not nobody

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Have the card's spare memory, once the other side has left it."""
        while True:
            async with self._locks.alone("card") as got:
                if got:
                    yield
                    return
            await asyncio.sleep(AGAIN_SECONDS)


def _wanted(side: Side) -> str:
    return f"card wanted by {side}"
