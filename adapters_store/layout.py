"""Where things lie in a store: the one place that builds a path of it.

{root}/{tenant}/{adapter}/{digest}/           a revision
{root}/{tenant}/{adapter}/{digest}/{merge}/   a model that it was merged into
{root}/.staging/{token}/                      what is being written; no reader looks here
{root}/.trash/{token}/                        what was deleted and is being removed
"""

import os
import re
from pathlib import Path

import msgspec

from adapters_store.errors import InvalidName
from adapters_store.models import MergedRef, RevisionRef

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
MANIFEST_FILE = "manifest.json"
CONTENT_FILES = (CONFIG_FILE, WEIGHTS_FILE)

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FILE = re.compile(r"(?!manifest\.json$)[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_MERGE = re.compile(r"merge-[0-9a-f]{24}")


def name(text: str) -> str:
    """Give back a tenant's, adapter's or base's name. Raises InvalidName."""
    if _NAME.fullmatch(text) is None:
        raise InvalidName(f"{text[:80]!a} is not a name: it must match {_NAME.pattern}")
    return text


def digest(text: str) -> str:
    """Give back a revision's digest. Raises InvalidName."""
    if _DIGEST.fullmatch(text) is None:
        raise InvalidName(f"{text[:80]!a} is not a digest: it must be 64 lowercase hex digits")
    return text


def merge(text: str) -> str:
    """Give back a merge's id. Raises InvalidName."""
    if not is_merge(text):
        raise InvalidName(f"{text[:80]!a} is not a merge's id: it must match {_MERGE.pattern}")
    return text


def is_name(text: str) -> bool:
    """Tell whether `text` could name a tenant or an adapter."""
    return _NAME.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Tell whether `text` could be a digest."""
    return _DIGEST.fullmatch(text) is not None


def is_merge(text: str) -> bool:
    """Tell whether `text` could be a merge's id."""
    return _MERGE.fullmatch(text) is not None


def is_file(text: str) -> bool:
    """Tell whether a merged model could have a file of that name."""
    return _FILE.fullmatch(text) is not None


def parts(ref: RevisionRef) -> tuple[str, ...]:
    """Name the folders, from the outermost, that lead to what is addressed. Raises InvalidName."""
    of_revision = (name(ref.tenant), name(ref.adapter), digest(ref.digest))
    return (*of_revision, merge(ref.merge)) if isinstance(ref, MergedRef) else of_revision


class Layout(msgspec.Struct, frozen=True):
    """Paths under `root`, which must be absolute and free of links."""

    root: Path

    @property
    def staging(self) -> Path:
        """Where folders are written before they are renamed into place."""
        return self.root / ".staging"

    @property
    def trash(self) -> Path:
        """Where folders go at once when they are deleted."""
        return self.root / ".trash"

    def tenant(self, tenant: str) -> Path:
        """Place a tenant's adapters. Raises InvalidName."""
        return self.root / name(tenant)

    def adapter(self, tenant: str, adapter: str) -> Path:
        """Place an adapter's revisions. Raises InvalidName."""
        return self.tenant(tenant) / name(adapter)

    def revision(self, ref: RevisionRef) -> Path:
        """Place a revision, or a merged model. Raises InvalidName."""
        return self.root.joinpath(*parts(ref))

    def ref(self, path: Path) -> RevisionRef:
        """Read back what `revision` placed. Raises InvalidName for any other path."""
        try:
            tenant, adapter, revision = path.relative_to(self.root).parts
        except ValueError:
            raise InvalidName(f"{path} is not a revision's place") from None
        return RevisionRef(name(tenant), name(adapter), digest(revision))


def refuse_links(path: Path) -> None:
    """Raise InvalidName if any part of an absolute path is a symbolic link.

    Names alone cannot climb out of the store, but a link planted in it could lead out.
    """
    if os.path.realpath(path) != str(path):
        raise InvalidName(f"{path} leads through a symbolic link")
