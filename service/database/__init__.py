"""Rows, sessions and migrations."""

from service.database.session import Companion, Database, accompanied

__all__ = ["Companion", "Database", "accompanied"]
