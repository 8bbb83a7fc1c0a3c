"""What was looked at, as it was found. Pure. A `fault` is why it could not be, or is not well."""

from typing import Any

import msgspec

from service.base.capabilities import Capabilities


class Package(msgspec.Struct, frozen=True):
    """One that is pinned."""

    name: str
    pinned: str | None
    installed: str | None
    extra: bool = False
    """Whether it comes with the extra `gpu` alone."""


class Folder(msgspec.Struct, frozen=True):
    """The data folder, or what is there of its path."""

    path: str
    free: int
    """Bytes on its disk."""
    fault: str | None = None


class Schema(msgspec.Struct, frozen=True):
    """The database's."""

    url: str
    """Without its password."""
    revision: str | None
    """None: none was made yet."""
    newest: str
    fault: str | None = None


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """The base model, read from its folder."""

    name: str
    parameters: int
    context: int
    config: dict[str, Any]


class Missing(msgspec.Struct, frozen=True):
    """Why there is no base to read; `fetched` if a start would fetch it."""

    why: str
    fetched: bool = False


class Port(msgspec.Struct, frozen=True):
    """Where it would listen."""

    where: str
    fault: str | None = None
    ours: bool = False
    """Whether a Lorehouse answers there."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    python: tuple[int, int, int]
    cores: int
    memory: int
    """Bytes of main memory that could still be taken."""
    driver: str | None
    """NVIDIA's, as its own tool names it."""
    packages: list[Package]
    can: Capabilities | str
    """What torch can do; else why nobody knows."""
    folder: Folder
    schema: Schema
    store: str | None
    """The adapter store's fault."""
    base: Base | Missing
    port: Port
