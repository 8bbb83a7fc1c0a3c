"""What the generation loop drives: a model, its adapters and the batch that runs on them."""

from collections.abc import Collection, Iterable
from typing import Any, Protocol

from adapters_store import RevisionRef
from service.base.rows import KvUse, Round, Row


class Backend(Protocol):
    """What an engine's model can do. All but `prepare` and `busy` is for the one
    thread that owns the model."""

    def prepare(self, ref: RevisionRef) -> Any:
        """Read and check a revision, on any thread. Raises ServiceError."""
        ...

    def install(self, ref: RevisionRef, prepared: Any) -> None:
        """Put it on the base, wholly or not at all. Raises ServiceError."""
        ...

    def remove(self, ref: RevisionRef) -> None:
        """Take it off the base."""
        ...

    def name(self, ref: RevisionRef) -> str:
        """What rows call it."""
        ...

    @property
    def busy(self) -> bool:
        """Whether a round would do anything."""
        ...

    @property
    def use(self) -> KvUse:
        """How the key-value cache fares."""
        ...

    def add(self, rows: Iterable[Row]) -> None:
        """Let rows into the batch."""
        ...

    def drop(self, keys: Collection[int]) -> None:
        """Let rows go."""
        ...

    def round(self) -> Round:
        """Take prompts in, and give running rows their next token. Never raises."""
        ...
