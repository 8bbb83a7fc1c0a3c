"""What working on jobs needs; picked in `training.run`, and by tests."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

import msgspec

from adapters_store import AdapterStore
from service.base.description import BaseDescription
from service.database import Database
from service.rendering.examples import Example
from service.training.trainer import Trainer


class Prepared(msgspec.Struct, frozen=True):
    """A trainer on its loaded base, with what a manifest says of that base."""

    trainer: Trainer
    quantization: str
    compute_dtype: str


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a training runtime."""

    owner: str
    """Holds the leases."""
    lease_seconds: float
    database: Database
    store: AdapterStore
    base: BaseDescription
    workdirs: Path
    """One folder for each job in it."""
    examples: Callable[[str, str], Awaitable[list[Example]]]
    """By tenant and file id."""
    prepare: Callable[[Literal["nf4", "none", "auto"]], Prepared]
    """Blocks while a base is loaded; called in the thread that trains."""
