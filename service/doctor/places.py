"""Looks at what the settings name: folders, database, adapter store, base, port."""

import asyncio
import shutil
import socket
import tempfile
from pathlib import Path

import httpx
from alembic.script import ScriptDirectory
from sqlalchemy import String, column, inspect, make_url, select, table
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from adapters_store import StoreUnavailable
from service.adapters.storing import adapter_store
from service.base.description import BaseDescription, BaseModelError, describe
from service.base.memory import parameters
from service.database import Database
from service.database.faults import FOREIGN
from service.database.migrate import MIGRATIONS
from service.doctor.facts import Base, Folder, Missing, Port, Schema
from service.errors import ServiceError
from service.settings import Settings, SettingsError

PATIENCE_SECONDS = 10.0
VERSIONS = "alembic_versions"
"""Where Alembic keeps which schema there is."""


def folder(settings: Settings) -> Folder:
    """See whether the data folder could be written to, without making it."""
    there = _existing(settings.data_dir.resolve())
    return Folder(str(there), shutil.disk_usage(there).free, _unwritable(there))


def store(settings: Settings) -> str | None:
    """Say why the adapter store cannot be written to, if so."""
    where = settings.adapter_store or str(settings.data_dir.resolve() / "adapters")
    try:
        if "://" not in where and not Path(where).is_dir():
            return _unwritable(_existing(Path(where).resolve()))
        adapter_store(settings).probe()
    except (StoreUnavailable, SettingsError, OSError) as fault:
        return str(fault)
    return None


def schema(settings: Settings) -> Schema:
    """See which schema the database has; a SQLite file that is not there is not made."""
    newest = ScriptDirectory(str(MIGRATIONS)).get_current_head() or ""
    try:
        url = make_url(settings.sqlalchemy_url)
    except ArgumentError as wrong:
        return Schema("LOREHOUSE_DATABASE_URL", None, newest, str(wrong))
    shown = url.render_as_string(hide_password=True)
    if settings.on_sqlite and not Path(url.database or "").is_file():
        there = _existing(Path(url.database or "").resolve().parent)
        return Schema(shown, None, newest, _unwritable(there))
    try:
        return Schema(shown, asyncio.run(_revision(settings.sqlalchemy_url)), newest)
    except (*FOREIGN, SQLAlchemyError, ServiceError, ImportError, OSError) as fault:
        return Schema(shown, None, newest, _reason(fault))


def base(settings: Settings) -> Base | Missing:
    """Read what the base is, without fetching it."""
    try:
        return _read(describe(_local(settings.base_model), settings.base_name))
    except FileNotFoundError as absent:
        return Missing(str(absent), fetched=True)
    except BaseModelError as fault:
        return Missing(str(fault))


def port(settings: Settings) -> Port:
    """Try to listen there, and if that fails see who does."""
    where = f"{settings.host}:{settings.port}"
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        socket.create_server((settings.host, settings.port), family=family).close()
    except OSError as fault:
        return Port(where, fault.strerror or str(fault), _answers(settings))
    return Port(where)


def _existing(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if each.exists())


def _unwritable(path: Path) -> str | None:
    try:
        with tempfile.TemporaryFile(dir=path):
            return None
    except OSError as fault:
        return f"{path}: {fault.strerror}"


async def _revision(url: str) -> str | None:
    database = Database(url)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS), database.read() as session:
            connection = await session.connection()
            if not await connection.run_sync(lambda sync: inspect(sync).has_table(VERSIONS)):
                return None
            versions = table(VERSIONS, column("version_num", String))
            return await session.scalar(select(versions.c.version_num))
    finally:
        await database.close()


def _reason(fault: BaseException) -> str:
    """Give the driver's own words: the whole would show the statement."""
    origin = getattr(fault, "orig", None) or fault.__cause__ or fault
    return (str(origin).strip().splitlines() or [type(fault).__name__])[0]


def _local(model: str) -> str:
    """Find an id of the hub in its cache. Raises FileNotFoundError unless it was fetched before."""
    if Path(model).is_dir() or model.startswith((".", "/", "~")):
        return model
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return str(snapshot_download(model, local_files_only=True))
    except LocalEntryNotFoundError:
        raise FileNotFoundError(f"{model} is not in the hub's cache yet") from None
    except HFValidationError as fault:
        raise BaseModelError(str(fault)) from None


def _read(found: BaseDescription) -> Base:
    found.check()
    return Base(
        name=found.name,
        parameters=parameters(found.path),
        context=found.context_length,
        config=found.config,
    )


def _answers(settings: Settings) -> bool:
    try:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        told = httpx.get(f"http://{host}:{settings.port}/health/live", timeout=2).json()
    except (httpx.HTTPError, ValueError):
        return False
    return bool(told == {"status": "live"})
