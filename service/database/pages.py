"""Lists in pages, newest first: a page goes on behind the row whose id the caller has seen last."""

from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import BadRequest

Row = TypeVar("Row")


async def newest(
    session: AsyncSession,
    rows: Select[Row],
    kind: Any,
    after: str | None,
    limit: int | None,
) -> Sequence[Row]:
    """List `rows` of one `kind` behind the one with the id `after`. Raises BadRequest."""
    if after is not None:
        rows = rows.where(kind.seq < await place(session, rows, kind, after))
    return (await session.scalars(rows.order_by(kind.seq.desc()).limit(limit))).all()


async def place(session: AsyncSession, rows: Select[Row], kind: Any, after: str) -> int:
    """Find the number of the row with this id among `rows`. Raises BadRequest."""
    seq: int | None = await session.scalar(rows.where(kind.id == after).with_only_columns(kind.seq))
    if seq is None:
        raise BadRequest(f"Nothing in this list has the id {after!r}", param="after")
    return seq
