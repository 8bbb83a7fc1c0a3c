"""Secrets that the operator gave, or that were made at first start and kept in the data folder."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

PREFIX = "lh-"


def load_or_make(data_dir: Path, name: str, given: str) -> str:
    """Return the given secret, else the one kept in `data_dir/name`, made if there is none.

    Safe when several processes start at once: all get the same secret.
    """
    if given:
        return given
    path = data_dir / name
    data_dir.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _offer(path, PREFIX + secrets.token_urlsafe(32))
    return path.read_text(encoding="ascii").strip()


def _offer(path: Path, secret: str) -> None:
    """Put the whole secret in place at once; whoever was first wins."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(file, "w", encoding="ascii") as stream:
            stream.write(secret + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        # A link, unlike a rename, never replaces the secret that another process put there.
        with suppress(FileExistsError):
            os.link(beside, path)
    finally:
        beside.unlink()
