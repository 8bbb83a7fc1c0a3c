"""An import without HTTP, in a process of its own that may be killed; see `killing`."""

import asyncio
import os
import sys
import threading
from pathlib import Path
from typing import Any

from adapters_store import AdapterStore, RevisionRef, open_store
from service.adapters.imports import ImportService
from service.adapters.imports_schemas import ImportAdapter
from service.adapters.origins import imported
from service.base.description import describe
from service.database import Database
from service.datasets.folder import FileFolder
from service.datasets.receive import Received
from service.serving.gate import Verdict
from service.settings import BUNDLED_BASE
from service.tenants.quotas import Quotas
from tests.unit.adapters_store.killing import asks_obstore, touches_files

CACHE_BYTES = 1 << 30
BASE = describe(str(BUNDLED_BASE))
# It keeps its digests: they are read once, and not in each process.
imported(BASE, "chat")


def touches_anything(called: Any) -> bool:
    """Tell whether a builtin is one that an import may be killed at."""
    if touches_files(called) or called.__name__ in {"execute", "commit"}:
        return True
    return asks_obstore(called)


def store_at(data: Path, url: str) -> AdapterStore:
    """Open a data folder's store: of files in it, or of objects under a URL."""
    where = f"{url}/{data.name}" if url else data / "adapters"
    return open_store(where, data / "cache", CACHE_BYTES)


def service(data: Path, url: str) -> tuple[Database, ImportService]:
    """Give imports into a data folder, by a gate that lets everything pass."""

    async def pass_all(_: RevisionRef, __: str) -> Verdict:
        return Verdict(passed=True, checks=[])

    database = Database(f"sqlite+aiosqlite:///{data}/lorehouse.db")
    store = store_at(data, url)
    return database, ImportService(
        database, store, BASE, FileFolder(data), pass_all, 1 << 30, Quotas()
    )


def bring(environment: dict[str, str], data: Path, archive: Path, url: str) -> None:
    """Import in this process, whose steps are counted in all its threads."""
    os.environ.update(environment)
    threading.setprofile(sys.getprofile())
    files = {"file": Received(archive, "adapter.tar", archive.stat().st_size, "")}
    wish = ImportAdapter(adapter="brought", alias="production")

    async def bring_it() -> None:
        database, imports = service(data, url)
        await imports.create("acme", files, wish, key_id=None)
        await database.close()

    asyncio.run(bring_it())
