"""What developers and CI run: the OpenAPI document, and the check of the migrations."""

import tempfile
from pathlib import Path

from service.settings import Settings


class CheckFailed(Exception):
    """What is committed does not agree with the code."""


def openapi_document() -> bytes:
    """Make the OpenAPI document of the code that runs, whatever this machine's settings."""
    from service.app import create_app
    from service.openapi import document, render

    with tempfile.TemporaryDirectory() as folder:
        return render(document(create_app(Settings(data_dir=Path(folder)))))


def check_document(path: Path) -> None:
    """Compare the committed document with the current one; raises CheckFailed."""
    if not path.is_file() or path.read_bytes() != openapi_document():
        raise CheckFailed(
            f"{path} is not what the code says: run `lorehouse openapi --output {path}`"
        )


def check_migrations() -> None:
    """Go up, down and up again on an empty database, and compare it with the models.

    Raises CheckFailed.
    """
    from alembic.util.exc import CommandError
    from sqlalchemy.exc import SQLAlchemyError

    from service.database import migrate

    with tempfile.TemporaryDirectory() as folder:
        commands = migrate.commands(f"sqlite+aiosqlite:///{folder}/check.db")
        try:
            commands.upgrade("head")
            commands.downgrade("base")
            commands.upgrade("head")
            commands.check()
        except (CommandError, SQLAlchemyError) as fault:
            raise CheckFailed(f"the migrations do not make the models' schema: {fault}") from fault
