"""What the tests of imports share."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from service.settings import Settings
from tests.archives import CONFIG, WEIGHTS, Folder, folder_of
from tests.builders import a_peft_folder

IMPORT = "/v1/adapters/import"
# Square layers of the bundled base.
TARGETS, HIDDEN, LAYERS = ("q_proj", "o_proj"), 256, 6


def an_adapter(folder: Path, **changes: Any) -> Folder:
    """Make an adapter for the bundled base, with random weights."""
    shape: dict[str, Any] = {"targets": TARGETS, "hidden": HIDDEN, "layers": LAYERS}
    return folder_of(a_peft_folder(folder, **shape | changes))


def archive_form(archive: bytes, **fields: str) -> dict[str, Any]:
    """The request that imports an archive."""
    return {"files": {"file": ("adapter.tar", archive)}, "data": {"adapter": "brought"} | fields}


def files_form(folder: Folder, **fields: str) -> dict[str, Any]:
    """The request that imports PEFT's files."""
    files = {
        "adapter_config": (CONFIG, folder[CONFIG]),
        "adapter_model": (WEIGHTS, folder[WEIGHTS]),
    }
    return {"files": files, "data": {"adapter": "brought"} | fields}


def everything(settings: Settings) -> tuple[list[tuple[str, int]], list[str]]:
    """What there is: every file in the data folder with its size, and every row but the audit's.

    Files of locks are never removed, and are empty. A refused request leaves its line, and a key's
    row says when it was last used.
    """
    root = settings.data_dir
    files = sorted(
        (str(path.relative_to(root)), path.stat().st_size)
        for path in root.rglob("*")
        if path.is_file()
        and not path.name.startswith("lorehouse.db")
        and path.parent.name != "locks"
    )
    with sqlite3.connect(root / "lorehouse.db") as database:
        told = ('INSERT INTO "audit"', 'INSERT INTO "api_keys"')
        return files, [row for row in database.iterdump() if not row.startswith(told)]


def refused_and_nothing_left(
    settings: Settings, ask: Callable[[], httpx.Response], status: int
) -> dict[str, Any]:
    """Ask, and give the error of the answer; what there is may not have changed."""
    before = everything(settings)
    answer = ask()
    assert answer.status_code == status, answer.text
    assert everything(settings) == before
    error: dict[str, Any] = answer.json()["error"]
    return error
