"""Bodies of answers that are read from files."""

import asyncio
from collections.abc import AsyncIterator, Iterator


async def in_threads(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Draw chunks that block; nothing is read ahead of who sends them."""
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk
