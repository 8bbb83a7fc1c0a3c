"""Alembic, driven by advanced-alchemy: bring a database to the newest schema, or check it."""

from pathlib import Path

from advanced_alchemy.alembic.commands import AlembicCommands
from advanced_alchemy.config import AlembicAsyncConfig, SQLAlchemyAsyncConfig

from service.database import models

MIGRATIONS = Path(__file__).parent / "migrations"

__all__ = ["commands", "models", "upgrade"]


def commands(url: str) -> AlembicCommands:
    """Make Alembic's commands for one database.

    They run their own event loop: call from a thread.
    """
    return AlembicCommands(
        SQLAlchemyAsyncConfig(
            connection_string=url,
            alembic_config=AlembicAsyncConfig(
                script_location=str(MIGRATIONS), compare_type=True, render_as_batch=True
            ),
        )
    )


def upgrade(url: str) -> None:
    """Bring the database to the newest schema; safe to call at every start."""
    commands(url).upgrade("head")
