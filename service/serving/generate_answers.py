"""Answers of the house's own endpoint, whole and streamed."""

from collections.abc import AsyncIterator

from msgspec import UNSET

from service.http import sse
from service.serving.generate_schemas import Generated, GeneratedPiece
from service.serving.generation import Choice, Generation, finish_reason
from service.serving.merging import closing


def generated(run: Generation, choice: Choice) -> Generated:
    """Build the whole answer."""
    return Generated(
        id=run.id,
        tenant=run.tenant,
        model=run.model,
        text=choice.text,
        finish_reason=choice.finish_reason,
        usage=run.usage,
    )


async def events(run: Generation) -> AsyncIterator[bytes]:
    """Encode the answer as it comes; the last piece says how it ended and what it used."""
    async with closing(run.pieces()) as pieces:
        async for piece in pieces:
            reason = finish_reason(piece)
            if piece.text or reason is not None:
                yield sse.data(
                    GeneratedPiece(
                        id=run.id,
                        tenant=run.tenant,
                        model=run.model,
                        text=piece.text,
                        finish_reason=UNSET if reason is None else reason,
                        usage=UNSET if reason is None else run.usage,
                    )
                )
    yield sse.DONE
