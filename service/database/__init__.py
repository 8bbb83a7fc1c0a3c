"""Rows, sessions and migrations."""

from service.database.session import Database

__all__ = ["Database"]
