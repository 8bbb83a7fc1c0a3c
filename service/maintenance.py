"""What operators, developers and CI run: checks of the store, the document, the migrations."""

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from service.settings import Settings, SettingsError

if TYPE_CHECKING:
    from adapters_store import AdapterStore


class CheckFailed(Exception):
    """What was looked at is not as it should be, or could not be looked at."""


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


def check_store(settings: Settings, tenant: str | None, tell: Callable[[str], None]) -> None:
    """Verify every digest in the adapter store, and tell what is wrong; raises CheckFailed."""
    from adapters_store import checking

    wrong = 0
    with _store(settings) as store:
        for finding in checking.check(store, time.time(), tenant):
            tell(f"{finding.where}  {finding.what}")
            wrong += 1
    if wrong:
        raise CheckFailed(f"{wrong} findings in the adapter store")


def collect_store(
    settings: Settings, tenant: str | None, tell: Callable[[str], None], *, dry: bool = False
) -> None:
    """Remove what may go from the adapter store and tell of it; `dry` only tells.

    Beside a running server it leaves whole revisions to that one, which knows who needs them; else
    none can start meanwhile. Raises CheckFailed.
    """
    from service.data_folder import held

    _require_database(settings.sqlalchemy_url)
    with _store(settings) as store, ExitStack() as stack:
        alone = True
        if not dry:
            try:
                stack.enter_context(held(settings.data_dir.resolve()))
            except SettingsError:
                tell("a server is running, and lets go of whole revisions itself")
                alone = False
        asyncio.run(_collect(settings, store, tenant, tell, dry=dry, revisions=alone))


async def _collect(
    settings: Settings,
    store: "AdapterStore",
    tenant: str | None,
    tell: Callable[[str], None],
    *,
    dry: bool,
    revisions: bool,
) -> None:
    from sqlalchemy.exc import SQLAlchemyError

    from service.adapters.collecting import Collector
    from service.adapters.leases import Leases
    from service.adapters.removing import Remover
    from service.database import Database

    database = Database(settings.sqlalchemy_url)
    collector = Collector(database, store, Remover(database, store, Leases()))
    try:
        async for found in collector.collect(tenant, dry=dry, revisions=revisions):
            tell(f"{found.where}  {found.what}")
    except SQLAlchemyError as fault:
        reason = getattr(fault, "orig", None) or fault
        raise CheckFailed(f"cannot use the database: {reason}") from fault
    finally:
        await database.close()


def _require_database(url: str) -> None:
    """Refuse to make one: of an empty database's view everything in the store is rubbish."""
    from sqlalchemy import make_url

    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        raise CheckFailed(f"there is no database at {parsed.database}")


@contextmanager
def _store(settings: Settings) -> Iterator["AdapterStore"]:
    """Open the store without a cache: a copy on this disk says nothing about the store."""
    from msgspec.structs import replace

    from adapters_store import AdapterStoreError
    from service.adapters.storing import adapter_store

    with tempfile.TemporaryDirectory() as folder:
        cacheless = replace(settings, adapter_cache_bytes=0)
        try:
            yield adapter_store(cacheless, Path(folder))
        except AdapterStoreError as fault:
            raise CheckFailed(str(fault)) from fault
