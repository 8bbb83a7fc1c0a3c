"""`INSERT ... ON CONFLICT`: both databases have it, and SQLAlchemy has two names for it."""

from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

_INSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def insert(session: AsyncSession, kind: Any) -> Any:
    """Begin an insert of rows of this kind that may say what it does on a conflict."""
    return _INSERTS[session.get_bind().dialect.name](kind)
